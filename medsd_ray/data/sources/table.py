"""Tables of images, such as `metadata.csv`: rows of cells by their columns, from CSV, TSV or Parquet."""

from __future__ import annotations

import csv
import gzip
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from medsd_ray.data.sources.source import BadSample
from medsd_ray.errors import InputError
from medsd_ray.storage import path_below, regular_file

TABLE = "metadata.csv"
"""The table that is read where SOURCE is a folder."""
SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
MOST_COLUMNS = 10_000
NOTHING = frozenset({"nan", "NaN", "NaT", "<NA>"})
"""Cells without a value, as pandas turns them into text. `None` may be a class of findings."""
NO_ONE = frozenset({"None", "NULL", "null"})
"""Texts that are no image, caption or patient either."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row: what stands in its columns, and where it stands, for messages, such as `metadata.csv line 2`."""

    where: str
    values: Mapping[str, str]

    def at(self, name: str) -> str:
        """Where the row is and which image it names."""
        return f"{self.where}: {name or 'no image'}" if self.where else name


@dataclass
class Table:
    """Rows of columns, whatever they were read from."""

    name: str
    """For messages about a row, such as `metadata.csv`."""
    where: str
    """For messages about the whole: its path."""
    columns: list[str]
    """In order; each has a value, maybe an empty one, in each row."""
    rows: list[Row | str] = field(default_factory=list)
    """In order; for one that cannot be used, a line that says what is wrong with it."""
    notes: list[str] = field(default_factory=list)
    """What the user should know of how it was read."""
    unread: list[str] = field(default_factory=list)
    """Columns that are there, and hold lists, records or bytes, which are no values of rows."""

    def names(self) -> set[str]:
        """What any cell names, if it names a file: images, and masks in columns of their own."""
        whole = (row for row in self.rows if isinstance(row, Row))
        return {normal_name(cell) for row in whole for cell in row.values.values() if cell}


def normal_name(name: str) -> str:
    """A file's name below a folder in the one form in which names are compared: with slashes, without `.`,
    its letters composed (Unicode's NFC). macOS decomposes them, Windows writes backslashes.
    """
    return PurePosixPath(unicodedata.normalize("NFC", name).replace("\\", "/")).as_posix()


def read_table(path: Path, images: Path) -> Table:
    """A table by its file's name.

    Args:
        path: A CSV or TSV file in UTF-8, which may be gzipped, or a Parquet file.
        images: The folder whose files the table names: a line of a text in quotes that names one is a row
            whose quote is amiss.

    Raises:
        InputError: It is no such table; where its quotes do not match, with the line, since rows that a quote
            swallows would go to another image and patient.
    """
    try:
        regular_file(path_below(path.parent, path.name))
    except OSError as error:
        raise _unreadable(path, error) from error
    return read_parquet(path) if path.name.lower().endswith(".parquet") else read_csv(path, images)


def read_csv(path: Path, images: Path) -> Table:
    """A table as CSV, or as TSV by its name; see `read_table`."""
    rows = read_cells(path)
    _, header = next(rows, (1, []))
    table = Table(path.name, str(path), check_header(path, header))
    for line, cells in rows:
        table.rows.append(_row(table, path, images, line, cells))
    return table


def read_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each row that is not empty, the header first. Raises InputError where the file is no
    such table.
    """
    line = 1
    try:
        with _opened(path) as file:
            reader = csv.reader(file, strict=True, delimiter=_delimiter(path))
            for cells in reader:
                if cells:
                    yield line, cells
                line = reader.line_num + 1
    except csv.Error as error:
        raise _not_closed(path, line, error) from error
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error


def _delimiter(path: Path) -> str:
    return "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ","


def _opened(path: Path) -> TextIO:
    opened = partial(gzip.open, path, "rt") if path.suffix.lower() == ".gz" else path.open
    return opened(newline="", encoding="utf-8-sig")  # pyright: ignore[reportReturnType]


def check_header(path: Path, cells: list[str]) -> list[str]:
    """The names of a table's columns. Raises InputError where two are one, or there are too many."""
    header = list(map(_composed, cells))
    if len(header) == 1 and (sign := re.search("[;\t|,]", header[0])) and path.suffix != ".parquet":
        meant = "commas, or name it .tsv" if sign[0] == "\t" else "tabs" if ".tsv" in path.name else "commas"
        raise InputError(
            f"{path}: one column alone, with {sign[0]!r} in its name; save the table with {meant} between "
            "columns"
        )
    if len(header) > MOST_COLUMNS:
        raise InputError(f"{path}: {len(header)} columns; {MOST_COLUMNS} at most are read")
    if twice := [column for column, times in Counter(header).items() if times > 1]:
        raise InputError(f"{path}: two columns named {twice[0]!r}; rename one")
    return header


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path.parent}: no {path.name} here; mend SOURCE")
    return InputError(f"{path}: not a CSV table in UTF-8 ({error}); save it as one")


def _not_closed(path: Path, line: int, reason: object) -> InputError:
    return InputError(
        f"{path} line {line}: a quote that is never closed, or closed in the midst of a text "
        f'({reason}); close it, and write "" for a quote inside of a text'
    )


def _row(table: Table, path: Path, images: Path, line: int, cells: list[str]) -> Row | str:
    where = f"{table.name} line {line}"
    for number, text in _continued(line, cells):
        if named := _image_in(text.split(_delimiter(path))[: len(table.columns)], images):
            raise _not_closed(path, line, f"line {number}, which names {named}, would belong to its text")
    if len(cells) != len(table.columns):
        return f"{where}: {len(cells)} cells under {len(table.columns)} columns; quote texts that have commas"
    return Row(where, {name: _value(cell) for name, cell in zip(table.columns, cells, strict=True)})


def _image_in(cells: list[str], images: Path) -> str | None:
    """The cell of a line of text that names a file among the images, as the first line of a row does."""
    for cell in cells:
        name = cell.strip(' "')
        try:
            if "." in name and (images / normal_name(name)).is_file():
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


def _value(cell: str) -> str:
    """What a cell says; nothing, where pandas wrote that there is nothing."""
    value = _composed(cell)
    return "" if value in NOTHING else value


def _composed(cell: str) -> str:
    return unicodedata.normalize("NFC", cell).strip()


def read_parquet(path: Path) -> Table:
    """A table as Parquet; columns of lists, records and bytes are left out. Raises InputError where it is
    none.
    """
    import pyarrow.parquet
    import pyarrow.types as types

    try:
        check_header(path, pyarrow.parquet.read_schema(path).names)
        content = times_as_text(pyarrow.parquet.read_table(path))
        plain = [field.name for field in content.schema if not _has_parts(types, field.type)]
        columns = [content.column(name).to_pylist() for name in plain]
    except (pyarrow.ArrowException, OSError, ValueError, LookupError) as error:
        raise InputError(f"{path}: not a Parquet table ({error}); save it as one") from error
    table = Table(path.name, str(path), check_header(path, plain))
    if left_out := [name for name in content.column_names if name not in plain]:
        table.unread = left_out
        table.notes.append(
            f"{path.name}: columns left out, since they hold no plain values: {', '.join(left_out)}"
        )
    for number, cells in enumerate(zip(*columns, strict=True), 1):
        values = {name: plain_text(cell) for name, cell in zip(table.columns, cells, strict=True)}
        table.rows.append(Row(f"{path.name} row {number}", values))
    return table


def times_as_text(table: Any) -> Any:
    """An Arrow table with its dates and times as texts: Python has none before the year 1, after 9999 or with
    nanoseconds.
    """
    import pyarrow
    import pyarrow.types as types

    for at, column in enumerate(table.schema):
        if types.is_date(column.type) or types.is_time(column.type) or types.is_timestamp(column.type):
            text = table.column(at).cast(pyarrow.string())
            table = table.set_column(at, column.with_type(pyarrow.string()), text)
    return table


def _has_parts(types: Any, kind: Any) -> bool:
    return types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind)


def plain_text(cell: Any) -> str:
    """A cell as a CSV file has it: empty where there is no value, whole numbers without a point."""
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return _value(str(cell))


def checked_cell(row: Row, column: str, mend: str = "") -> str:
    """The value of a column. Raises BadSample where it is empty; `mend` says what else to do about it."""
    if (value := row.values[column]) and value not in NO_ONE:
        return value
    raise BadSample(f"the {column} is empty; fill it in or drop the row{mend}")
