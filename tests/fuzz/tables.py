"""metadata.csv, reports as XML, and files of prompts."""

from __future__ import annotations

import csv
import io
import unicodedata
from contextlib import suppress
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from fuzz.campaign import Files, Reader
from fuzz.children import holds, shown
from fuzz.images import IMAGES
from fuzz.mutations import WORDS, damaged
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from medsd_ray.data.sources import folder as folder_source
from medsd_ray.data.sources import openi
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import BadSample, Source
from medsd_ray.data.sources.table import NO_ONE, NOTHING
from medsd_ray.errors import InputError
from medsd_ray.generation.prompts import read_prompts

PNG = IMAGES["PNG"][0]
MARKS = [f"{word}{'q' * 3}{i}" for i, word in enumerate(("alder", "birch", "cedar", "doum", "elder", "fir"))]
"""Of one row each: in the image's name, the report and the patient's."""
ROWS = [(f"{mark}.png", f"Report of {mark}, no effusion", f"P {mark}", "Effusion") for mark in MARKS]
HEADER = ("image", "report", "patient_id", "finding")
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=30).map(
    lambda text: " ".join(text.split()) or "x"
)


def _table(rows: list[tuple[str, ...]], header: tuple[str, ...] = HEADER) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerows([header, *rows])
    return buffer.getvalue().encode()


TABLES = [
    _table(ROWS),
    _table([(a, f"{b}\nsecond line", c, d) for a, b, c, d in ROWS]),
    b"\xef\xbb\xbf" + _table(ROWS).replace(b"\r\n", b"\n"),
    _table(ROWS).decode().encode("utf-16"),
]


def _with_images(table: bytes) -> Files:
    return {"metadata.csv": table} | {f"{mark}.png": PNG for mark in MARKS}


def _read(source: Source) -> list[tuple[str, str, str]]:
    """(name, patient, caption) of each sample that can be read; all messages are one line each."""
    found, said = [], [*source.problems, *source.notes]
    for record in source.records[:20]:
        try:
            found.append((record.name, record.patient, record.read().caption))
        except BadSample as error:
            said.append(str(error))
        said.append(record.where)
    shown(said)
    if not found:
        raise InputError("; ".join(said)[:500] or "no sample")
    return found


def read_table(folder: Path) -> None:
    for name, patient, caption in _read(folder_source.scan(SourceRequest(str(folder)))):
        holds((folder / name).resolve().parent == folder, f"{name} lies in the folder")
        holds(
            patient and caption and len(caption.splitlines()) == 1,
            "patient and caption are there, in one line",
        )


def read_mixed_table(folder: Path) -> None:
    """No image goes to another row's patient or report, whatever was put between the cells."""
    for sample in _read(folder_source.scan(SourceRequest(str(folder)))):
        marks = {mark for mark in MARKS for part in sample if mark in part}
        holds(len(marks) <= 1, f"a sample is of one row: {sample}")


@st.composite
def _mixed_tables(draw: DrawFn) -> Files:
    """A table in which some signs were put in, or left out, and no text was moved."""
    data = bytearray(draw(st.sampled_from(TABLES[:3])))
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            at = draw(st.integers(0, len(data)))
            data[at:at] = draw(
                st.sampled_from([b'"', b'""', b",", b'",', b',"', b";", b"'", b"\0", b"\\", b"\t"])
            )
        elif places := [i for i, byte in enumerate(data) if byte in b'",']:
            del data[draw(st.sampled_from(places))]
    return _with_images(bytes(data))


def read_drawn_table(folder: Path) -> None:
    """As many samples as rows, each with its own row's report and patient."""
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = _read(folder_source.scan(SourceRequest(str(folder))))
    holds(found == [(row["image"], row["patient_id"], row["report"]) for row in rows], "samples are the rows")


def _content(text: str) -> str:
    """As a table has it; never empty, nor one of the words that stand for an empty cell."""
    text = unicodedata.normalize("NFC", text).strip()
    return "x" if not text or text in NOTHING | NO_ONE else text


@st.composite
def _drawn_tables(draw: DrawFn) -> Files:
    texts = draw(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=len(MARKS)))
    composed = [tuple(_content(text) for text in pair) for pair in texts]
    rows = [
        (f"{mark}.png", " ".join(report.split()), patient, "f")
        for mark, (report, patient) in zip(MARKS, composed, strict=False)
    ]
    return _with_images(_table(rows))


MASKED = [(*row, f"{mark}-mask.png", "A") for mark, row in zip(MARKS, ROWS, strict=True)]
MASKED_HEADER = (*HEADER, "mask", "site")
BOXES = _table(
    [(f"{mark}.png", "Nodule", "0", "0.5", "2", "1e0") for mark in MARKS],
    ("image", "finding", "x", "y", "w", "h"),
)
CAPTIONS = ["{finding} of {report}. {site}.", "{report}", "{{x}}", "{Finding}! {image}", "{a", "plain."]


def read_masked_table(folder: Path) -> None:
    """Masks, a domain, boxes and a caption's template: each sample's masks have its image's size."""
    asked = SourceRequest(
        str(folder),
        caption=(folder / "caption.txt").read_text("utf-8", "replace"),
        mask_columns=("mask",),
        domain_column="site",
        boxes=str(folder / "boxes.csv"),
    )
    source = folder_source.scan(asked)
    _read(source)
    for record in source.records[:20]:
        with suppress(BadSample):
            content = record.read()
            holds(content.image is not None and content.masks, "an image with its masks")
            marks = {mark for mark in MARKS if mark in record.name + record.patient + content.caption}
            holds(len(marks) <= 1, f"a sample is of one row: {record.name}")


def _masked(table: bytes, boxes: bytes, mask: bytes, caption: bytes) -> Files:
    files = _with_images(table) | {f"{mark}-mask.png": IMAGES["PNG"][0] for mark in MARKS[1:]}
    return files | {f"{MARKS[0]}-mask.png": mask, "boxes.csv": boxes, "caption.txt": caption}


def _masked_tables() -> SearchStrategy[Files]:
    table, images = _table(MASKED, MASKED_HEADER), IMAGES["PNG"]
    texts = [text.encode() for text in CAPTIONS]
    whole = st.sampled_from(texts[:2])
    return (
        st.builds(_masked, damaged([table]), st.just(BOXES), st.just(PNG), whole)
        | st.builds(_masked, st.just(table), damaged([BOXES]), st.just(PNG), whole)
        | st.builds(_masked, st.just(table), st.just(BOXES), damaged(images), whole)
        | st.builds(_masked, st.just(table), st.just(BOXES), st.just(PNG), damaged(texts))
    )


REPORT = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="CXR{number}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="INDICATION">XXXX-year-old with cough</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText>
<AbstractText Label="IMPRESSION">No acute disease, x-XXXX of XXXX.</AbstractText>
</Abstract></Article></MedlineCitation><MeSH><major>normal</major><major>Cardiomegaly/mild</major></MeSH>
<parentImage id={image}><figureId>F1</figureId></parentImage></eCitation>
"""


def _report(findings: str, image: str = "CXR1_1", number: int = 1) -> bytes:
    return REPORT.format(number=number, findings=escape(findings), image=quoteattr(image)).encode()


REPORTS = [
    _report("The heart is large."),
    _report("A & B < C; XXXX."),
    _report("Grün.").replace(b'encoding="utf-8"', b'encoding="utf-16"').decode().encode("utf-16"),
    b'<!DOCTYPE x [<!ENTITY a "&b;&b;"><!ENTITY b "bb">]>' + _report("&a;").partition(b"\n")[2],
]


def read_reports(folder: Path) -> None:
    source = openi.scan(SourceRequest(str(folder / "reports"), images=str(folder / "images")))
    for name, patient, caption in _read(source):
        holds(patient and name.startswith(f"{patient}/"), f"a sample is its report's: {name}")
        holds(caption, "a report that is taken says something")


def read_drawn_report(folder: Path) -> None:
    """A report's words come back, without what anonymisation left of others."""
    report = openi.parse((folder / "reports" / "1.xml").read_bytes())
    holds(report.patient == "CXR1" and report.images == ("CXR1_1",), "patient and image are the report's")
    words = (folder / "words.txt").read_text(encoding="utf-8").split()
    kept = report.sections["findings"]
    holds(all(word in kept for word in words), f"words are kept: {words} in {kept!r}")
    holds("XXXX" not in report.caption, "blanks are gone")


@st.composite
def _drawn_reports(draw: DrawFn) -> Files:
    words = draw(st.lists(st.from_regex(r"[a-z]{3,9}", fullmatch=True), min_size=1, max_size=30))
    marks = [draw(st.sampled_from([" ", ", ", ". ", " XXXX ", " XXXX, ", "; ", "\n", " & "])) for _ in words]
    text = "".join(word + mark for word, mark in zip(words, marks, strict=True))
    return {"reports/1.xml": _report(text), "words.txt": " ".join(words).encode()}


def read_prompt_lines(folder: Path) -> None:
    prompts = read_prompts(None, folder / "prompts.txt")
    holds(
        prompts and all(one == one.strip() and len(one.splitlines()) == 1 for one in prompts),
        "a prompt a line",
    )


def _reports(data: bytes) -> Files:
    return {"reports/1.xml": data, "reports/2.xml": _report("x", "CXR2_1", 2), "images/CXR1_1.png": PNG}


def _prompts() -> SearchStrategy[Files]:
    seeds = [b"a chest x-ray\n\nan effusion\r\n", "\ufeffErguß links\n".encode(), b"", *WORDS]
    return damaged(seeds).map(lambda data: {"prompts.txt": data})


READERS = [
    Reader("metadata.csv", damaged(TABLES).map(_with_images), read_table, 80),
    Reader("metadata.csv, signs", _mixed_tables(), read_mixed_table, 80),
    Reader("metadata.csv, drawn", _drawn_tables(), read_drawn_table),
    Reader("metadata.csv, masks", _masked_tables(), read_masked_table, 60),
    Reader("OpenI XML", damaged(REPORTS).map(_reports), read_reports, 60),
    Reader("OpenI XML, drawn", _drawn_reports(), read_drawn_report),
    Reader("prompts", _prompts(), read_prompt_lines, 30),
]
