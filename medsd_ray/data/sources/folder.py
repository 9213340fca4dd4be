"""A folder of images with `metadata.csv`: columns `image`, `report`, the patient's, and labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from medsd_ray.addresses import path_of
from medsd_ray.data.labels import LabelColumns
from medsd_ray.data.sources.frames import Frames, named
from medsd_ray.data.sources.image_files import SUFFIXES, frames_to_take, open_image
from medsd_ray.data.sources.source import BadSample, Content, Record, Source, stamp
from medsd_ray.data.sources.table import TABLE, NamedFiles, Row, Table, names_in, read_rows
from medsd_ray.errors import InputError


def existing_folder(source: str) -> Path:
    """SOURCE as a local folder. Raises InputError where it is none."""
    if "://" in source:
        raise InputError(f"{source}: sources are read from a local folder; copy it here first")
    folder = path_of(source)
    if not folder.is_dir():
        raise InputError(f"{source}: there is no such folder; mend SOURCE")
    return folder


def scan(
    source: str, split_by: str, labels: LabelColumns = LabelColumns(), frames: Frames | None = None
) -> Source:
    """The rows of SOURCE/metadata.csv whose file is there; pixels are read later.

    Args:
        source: A local folder.
        split_by: The column that names the patient.
        labels: The columns that are asked for as labels.
        frames: Which pages to take of a file that has several; such a file is refused where it is None.

    Raises:
        InputError: There is no such folder, no usable table in it, or a column cannot be a label.
    """
    folder = existing_folder(source)
    table, files = read_rows(Table(folder, split_by), labels), NamedFiles(folder)
    found = Source("image", notes=table.notes)
    lines: dict[str, int] = {}
    for row in table.rows:
        if isinstance(row, str):
            found.problems.append(row)
            continue
        try:
            path = files.find(row.image)
            name = files.relative(path)
            if (first := lines.setdefault(name, row.line)) != row.line:
                raise BadSample(f"already on line {first}; keep one of them")
            found.records += _records(path, name, row, table.labels(row), frames)
        except BadSample as error:
            found.problems.append(f"{row.where}: {error}")
    if left := unnamed(map(files.relative, image_files(folder)), names_in(table.rows)):
        found.notes.append(f"{left} images are left out: {TABLE} has no row for them")
    return found


def image_files(folder: Path) -> Iterator[Path]:
    """The images below a folder, by their names; no links are followed, and nothing hidden is looked at."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                path = Path(parent, name)
                if not path.is_symlink():
                    yield path


def unnamed(files: Iterable[str], named: set[str]) -> int:
    """How many files a table does not name."""
    return sum(name not in named for name in files)


def _records(path: Path, name: str, row: Row, labels: dict[str, str], frames: Frames | None) -> list[Record]:
    """A record for each page that is taken of a row's file."""
    taken, count = frames_to_take(path, frames)
    mark = stamp(path.stat().st_size, row.report, labels, *([list(taken)] if count > 1 else []))
    return [
        Record(
            named(name, n, count),
            row.patient,
            row.where,
            mark,
            partial(_read, path, None if frames is None else n, row.report, labels),
        )
        for n in taken
    ]


def _read(path: Path, page: int | None, report: str, labels: dict[str, str]) -> Content:
    return Content(open_image(path, page), report, labels)
