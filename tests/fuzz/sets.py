"""Published sets in their own layouts, one file of each damaged."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import published_sets as sets
from fuzz.campaign import Files, Reader
from fuzz.children import holds, shown
from fuzz.mutations import damaged
from hugging_face_sets import image_folder, parquet
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from medsd_ray.data.sources.kinds import open_source
from medsd_ray.data.sources.report_sections import SECTIONS, cut
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import BadSample
from medsd_ray.errors import InputError


def _files(make: Callable[[Path], object]) -> Files:
    """What a set consists of, by the paths below its folder."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@st.composite
def _damaged_set(draw: DrawFn, files: Files, names: list[str]) -> Files:
    """The set with one of the files `names` damaged, or none."""
    name = draw(st.sampled_from(names))
    return files | {name: draw(damaged([files[name]]))}


def _inputs(make: Callable[[Path], object], *, but: str = ".png .jpg") -> SearchStrategy[Files]:
    files = _files(make)
    return _damaged_set(files, [name for name in files if not name.endswith(tuple(but.split()))])


def read_set(kind: str, folder: Path, below: str = "", **more: str) -> None:
    """Each sample that can be read has a patient, and a caption in one line; messages are one line each."""
    source = open_source(SourceRequest(str(folder / below), kind=kind, **more))  # pyright: ignore
    found, said = 0, [*source.problems, *source.notes]
    for record in source.records:
        said.append(record.where)
        holds(".." not in record.name, "a sample lies in the folder")
        try:
            caption = record.read().caption
        except BadSample as error:
            said.append(str(error))
            continue
        found += 1
        holds(record.patient and caption and len(caption.splitlines()) == 1, "patient and caption are there")
    shown(said)
    if not found:
        raise InputError("; ".join(said)[:500] or "no sample")


def cut_report(folder: Path) -> None:
    text = (folder / "report.txt").read_bytes().decode(errors="replace")
    found = cut(text)
    holds(set(found) <= set(SECTIONS), "sections have known names")
    words = set(text.split())
    holds(all(word in words for part in found.values() for word in part.split()[:-1]), "words are kept")


REPORTS = [text.encode() for text in (sets.REPORT, sets.NO_IMPRESSION, sets.NO_SECTION, sets.EMPTY_REPORT)]

READERS = [
    Reader("MIMIC-CXR", _inputs(partial(sets.mimic_cxr, gz=False)), partial(read_set, "mimic-cxr"), 12),
    Reader(
        "MIMIC-CXR, packed",
        _inputs(partial(sets.mimic_cxr, reports="zip")),
        partial(read_set, "mimic-cxr"),
        12,
    ),
    Reader("MIMIC-CXR report", damaged(REPORTS).map(lambda data: {"report.txt": data}), cut_report, 30),
    Reader(
        "CheXpert",
        _inputs(partial(sets.chexpert, plus=True)),
        partial(read_set, "chexpert", below="CheXpert-v1.0-small"),
        12,
    ),
    Reader("NIH ChestX-ray14", _inputs(sets.nih), partial(read_set, "nih"), 12),
    Reader("PadChest", _inputs(sets.padchest), partial(read_set, "padchest"), 12),
    Reader(
        "image folder",
        _inputs(partial(image_folder, metadata="jsonl")),
        partial(read_set, "hf"),
        12,
    ),
    Reader(
        "Parquet with images",
        _inputs(parquet),
        partial(read_set, "hf", patient_column="patient"),
        12,
    ),
]
