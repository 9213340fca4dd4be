"""A folder of images with `metadata.csv`: columns `image`, `report`, the patient's, and labels."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from medsd_ray.data.free_text import identifying_column
from medsd_ray.data.sources.pixels import open_image
from medsd_ray.data.sources.source import BadSample, Content, Record, Source, stamp
from medsd_ray.errors import InputError

TABLE = "metadata.csv"


@dataclass(frozen=True)
class Row:
    """A row of metadata.csv; `line` is its number in the file, from 1."""

    line: int
    image: str
    report: str
    patient: str
    labels: dict[str, str]

    @property
    def where(self) -> str:
        return f"{TABLE} line {self.line}: {self.image or 'no image'}"


class Table:
    """The rows of metadata.csv. Raises InputError where it is no such table.

    `columns` must be there besides `image` and `report`. A column whose name says that it tells who the
    patient is becomes no label; `left_out` names those.
    """

    def __init__(self, folder: Path, patient: str | None):
        self.path, self.patient = folder / TABLE, patient
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                self.header = next(csv.reader(file), [])
        except (OSError, ValueError, csv.Error) as error:
            raise self._unreadable(error) from error
        for column in ("image", "report", patient):
            if column is not None and column not in self.header:
                hint = "; name the patient's column with --split-by" if column == patient else ""
                raise InputError(
                    f"{self.path}: no column {column!r} among {', '.join(self.header) or 'none'}{hint}"
                )
        if twice := [c for c in self.header if self.header.count(c) > 1]:
            raise InputError(f"{self.path}: two columns named {twice[0]!r}; rename one")
        others = [c for c in self.header if c not in ("image", "report", patient)]
        self.left_out = [c for c in others if identifying_column(c)]
        self.labels = [c for c in others if c not in self.left_out]

    def _unreadable(self, error: Exception) -> InputError:
        if isinstance(error, FileNotFoundError):
            return InputError(
                f"{self.path.parent}: no {TABLE} here; add one with the columns image, report and patient_id"
            )
        return InputError(f"{self.path}: not a CSV table in UTF-8 ({error}); save it as one")

    def rows(self) -> Iterator[Row | str]:
        """Each row, or a line that says what is wrong with it."""
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.reader(file)
                next(reader)
                line = reader.line_num + 1
                for cells in reader:
                    if cells:
                        yield self._row(line, cells)
                    line = reader.line_num + 1
        except (OSError, ValueError, csv.Error) as error:
            raise self._unreadable(error) from error

    def _row(self, line: int, cells: list[str]) -> Row | str:
        where = f"{TABLE} line {line}"
        if len(cells) != len(self.header):
            return (
                f"{where}: {len(cells)} cells under {len(self.header)} columns; quote texts that have commas"
            )
        values = {column: cell.strip() for column, cell in zip(self.header, cells, strict=True)}
        for column in ("image", "report", self.patient):
            if column is not None and not values[column]:
                image = f": {values['image']}" if values["image"] else ""
                return f"{where}{image}: the {column} is empty; fill it in or drop the row"
        patient = values[self.patient] if self.patient else ""
        labels = {column: values[column] for column in self.labels}
        return Row(line, values["image"], " ".join(values["report"].split()), patient, labels)

    @property
    def notes(self) -> list[str]:
        if not self.left_out:
            return []
        return [
            f"{TABLE}: columns left out of the labels because they may identify: {', '.join(self.left_out)}"
        ]


def inside(folder: Path, name: str) -> Path:
    """The file below the folder. Raises BadSample where it is missing or the name leads out, by a link
    too.
    """
    pure = PurePosixPath(name.replace("\\", "/"))
    try:
        path = folder / pure
        if pure.is_absolute() or ".." in pure.parts or not path.resolve().is_relative_to(folder.resolve()):
            raise BadSample("leads out of the folder; keep images below metadata.csv")
        if not path.is_file():
            raise BadSample("there is no such file; add it or drop the row")
    except (OSError, ValueError) as error:  # a name that no file can have
        raise BadSample("not the name of a file; mend the row") from error
    return path


def existing_folder(source: str) -> Path:
    """SOURCE as a local folder. Raises InputError where it is none."""
    if "://" in source:
        raise InputError(f"{source}: sources are read from a local folder; copy it here first")
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise InputError(f"{source}: there is no such folder; mend SOURCE")
    return folder


def scan(source: str, split_by: str) -> Source:
    """The rows of SOURCE/metadata.csv whose file is there; pixels are read later.

    Args:
        source: A local folder.
        split_by: The column that names the patient.

    Raises:
        InputError: There is no such folder, or no usable table in it.
    """
    folder = existing_folder(source)
    table = Table(folder, split_by)
    found = Source("image", notes=table.notes)
    lines: dict[str, int] = {}
    for row in table.rows():
        if isinstance(row, str):
            found.problems.append(row)
            continue
        try:
            path = inside(folder, row.image)
        except BadSample as error:
            found.problems.append(f"{row.where}: {error}")
            continue
        name = path.relative_to(folder).as_posix()
        if (first := lines.setdefault(name, row.line)) != row.line:
            found.problems.append(f"{row.where}: already on line {first}; keep one of them")
            continue
        mark = stamp(path.stat().st_size, row.report, row.labels)
        found.records.append(Record(name, row.patient, row.where, mark, partial(_read, path, row)))
    return found


def _read(path: Path, row: Row) -> Content:
    return Content(open_image(path), row.report, row.labels)
