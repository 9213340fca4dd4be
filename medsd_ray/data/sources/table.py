"""`metadata.csv`: a row for each image of a folder, with its report, its patient and labels."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from medsd_ray.data.labels import LabelColumns, labels_of
from medsd_ray.data.sources.regular import check_file
from medsd_ray.data.sources.source import BadSample
from medsd_ray.errors import InputError
from medsd_ray.storage import path_below, regular_file

TABLE = "metadata.csv"
MOST_COLUMNS = 10_000


@dataclass(frozen=True)
class Row:
    """A row of metadata.csv; `line` is its number in the file, from 1."""

    line: int
    image: str
    report: str
    patient: str
    values: Mapping[str, str]
    """Column -> cell, of the columns beyond these three."""

    @property
    def where(self) -> str:
        return f"{TABLE} line {self.line}: {self.image or 'no image'}"


def normal_name(name: str) -> str:
    """A file's name below a folder in the one form in which names are compared: with slashes, without `.`,
    its letters composed (Unicode's NFC). macOS decomposes them, Windows writes backslashes.
    """
    return PurePosixPath(unicodedata.normalize("NFC", name).replace("\\", "/")).as_posix()


class Table:
    """The rows of metadata.csv. Raises InputError where it is no such table.

    `patient` is the patient's column, which must be there besides `image` and `report`; None for none.
    """

    def __init__(self, folder: Path, patient: str | None):
        self.path, self.patient = folder / TABLE, patient
        try:
            regular_file(path_below(folder, TABLE))
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                self.header = [_composed(cell) for cell in next(csv.reader(file, strict=True), [])]
        except csv.Error as error:
            raise self._not_closed(1, error) from error
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error
        if len(self.header) > MOST_COLUMNS:
            raise InputError(f"{self.path}: {len(self.header)} columns; {MOST_COLUMNS} at most are read")
        for column in ("image", "report", patient):
            if column is not None and column not in self.header:
                hint = "; name the patient's column with --split-by" if column == patient else ""
                raise InputError(
                    f"{self.path}: no column {column!r} among {', '.join(self.header) or 'none'}{hint}"
                )
        if twice := [column for column, times in Counter(self.header).items() if times > 1]:
            raise InputError(f"{self.path}: two columns named {twice[0]!r}; rename one")
        self.others = [c for c in self.header if c not in ("image", "report", patient)]

    def _unreadable(self, error: Exception) -> InputError:
        if isinstance(error, FileNotFoundError):
            return InputError(
                f"{self.path.parent}: no {TABLE} here; add one with the columns image, report and patient_id"
            )
        return InputError(f"{self.path}: not a CSV table in UTF-8 ({error}); save it as one")

    def _not_closed(self, line: int, reason: object) -> InputError:
        return InputError(
            f"{self.path} line {line}: a quote that is never closed, or closed in the midst of a text "
            f'({reason}); close it, and write "" for a quote inside of a text'
        )

    def rows(self) -> Iterator[Row | str]:
        """Each row, or a line that says what is wrong with it.

        Raises InputError, with the line, where the quotes do not match: rows that a quote swallows would go
        to another image and patient.
        """
        line = 1
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.reader(file, strict=True)
                next(reader)
                line = reader.line_num + 1
                for cells in reader:
                    if cells:
                        yield self._row(line, cells)
                    line = reader.line_num + 1
        except csv.Error as error:
            raise self._not_closed(line, error) from error
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error

    def _row(self, line: int, cells: list[str]) -> Row | str:
        where = f"{TABLE} line {line}"
        for number, text in _continued(line, cells):
            if named := self._image_in(text):
                raise self._not_closed(line, f"line {number}, which names {named}, would belong to its text")
        if len(cells) != len(self.header):
            return (
                f"{where}: {len(cells)} cells under {len(self.header)} columns; quote texts that have commas"
            )
        values = {column: _composed(cell) for column, cell in zip(self.header, cells, strict=True)}
        for column in ("image", "report", self.patient):
            if column is not None and not values[column]:
                image = f": {values['image']}" if values["image"] else ""
                return f"{where}{image}: the {column} is empty; fill it in or drop the row"
        patient = values[self.patient] if self.patient else ""
        others = {column: values[column] for column in self.others}
        return Row(line, values["image"], " ".join(values["report"].split()), patient, others)

    def _image_in(self, text: str) -> str | None:
        """The cell of a line of text that names a file beside the table, as the first line of a row does."""
        for cell in text.split(",")[: len(self.header)]:
            name = cell.strip(' "')
            try:
                if "." in name and (self.path.parent / normal_name(name)).is_file():
                    return name
            except (OSError, ValueError):  # a name that no file can have
                continue
        return None


def _continued(line: int, cells: list[str]) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines that a row goes on over, where a text in quotes has line breaks."""
    for cell in cells:
        for text in cell.splitlines()[1:]:
            line += 1
            yield line, text


def _composed(cell: str) -> str:
    return unicodedata.normalize("NFC", cell).strip()


@dataclass
class LabelledRows:
    """The rows of a table, with what becomes a label of each."""

    rows: list[Row | str] = field(default_factory=list)
    """In order; for one that cannot be used, a line that says what is wrong with it."""
    notes: list[str] = field(default_factory=list)
    """Which columns are left out of the labels."""
    columns: list[str] = field(default_factory=list)
    """Those that become labels."""

    def labels(self, row: Row) -> dict[str, str]:
        """Column -> value."""
        return labels_of(row.values, self.columns)


def read_rows(table: Table, labels: LabelColumns) -> LabelledRows:
    """All rows. Raises InputError for a table that cannot be read, or a column that cannot be a label."""
    found = LabelledRows(list(table.rows()))
    whole = [row for row in found.rows if isinstance(row, Row)]
    chosen, left_out = labels.among(table.others, str(table.path))
    if left_out:
        found.notes.append(
            f"{TABLE}: columns left out of the labels: {', '.join(left_out)}; ask for one with --label-column"
        )
    for name in chosen:
        cells = [(f"{TABLE} line {row.line}", row.patient, row.values[name]) for row in whole]
        if why := labels.refused(name, cells):
            found.notes.append(why)
        else:
            found.columns.append(name)
    return found


class NamedFiles:
    """The files below a folder, by the names that a table gives them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._spellings: dict[Path, dict[str, str]] = {}

    def find(self, name: str) -> Path:
        """The regular file. Raises BadSample where it is missing or the name leads out, by a link too."""
        pure = PurePosixPath(normal_name(name))
        if pure.is_absolute() or ".." in pure.parts:
            raise BadSample("leads out of the folder; keep images below metadata.csv")
        try:
            path = self._spelled(pure)
        except (OSError, ValueError) as error:  # a name that no file can have
            raise BadSample("not the name of a file; mend the row") from error
        check_file(self.folder, path)
        return path

    def _spelled(self, pure: PurePosixPath) -> Path:
        """The path as the file system spells it."""
        path = self.folder / pure
        if path.exists():
            return path
        at = self.folder
        for part in pure.parts:
            if not (at / part).exists():
                part = self._spelling(at).get(part, part)
            at /= part
        return at

    def _spelling(self, folder: Path) -> dict[str, str]:
        """Composed name -> name, of what is in a folder."""
        if folder not in self._spellings:
            names = os.listdir(folder) if folder.is_dir() else []
            self._spellings[folder] = {normal_name(name): name for name in names}
        return self._spellings[folder]

    def relative(self, path: Path) -> str:
        """The one name of a file below the folder, in a table and out of it."""
        return normal_name(path.relative_to(self.folder).as_posix())


def names_in(rows: Sequence[Row | str]) -> set[str]:
    """What any cell of a table names, if it names a file: images, and masks in columns of their own."""
    whole = (row for row in rows if isinstance(row, Row))
    return {normal_name(cell) for row in whole for cell in (row.image, *row.values.values()) if cell}
