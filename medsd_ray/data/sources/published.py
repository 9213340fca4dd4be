"""What the readers of published data sets share: a set's files by their names, its tables, and one way to say
an age, a sex and a view.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from medsd_ray.addresses import path_of
from medsd_ray.data.labels import OLDEST
from medsd_ray.data.sources.columns import Columns
from medsd_ray.data.sources.files import FolderImages, image_files
from medsd_ray.data.sources.masks import Boxes
from medsd_ray.data.sources.rows import source_of_rows
from medsd_ray.data.sources.source import BadSample, Source
from medsd_ray.data.sources.table import Row, Table, normal_name, read_csv
from medsd_ray.errors import InputError

CAPTION = "{age} year old {sex}. {view} chest X-ray. Findings: {finding_names}."
"""Of a set without reports in English."""
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "validate": "validation", "valid": "validation", "val": "validation",
    "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""How sets call the splits, and what they are called here."""
SPLIT = "split"
"""The column with a row's published split."""
OLDEST_EVER = 120
"""Years; an age beyond is a slip of the pen."""
_SEXES = {"f": "female", "female": "female", "m": "male", "male": "male"}
_VIEWS = {
    "pa": "PA",
    "ap": "AP",
    "ap_horizontal": "AP supine",
    "l": "Lateral",
    "ll": "Lateral",
    "rl": "Lateral",
    "lateral": "Lateral",
    "unk": "",
}


def file_of(folder: Path, *names: str) -> Path | None:
    """The first of these files that is there, as it is or compressed by gzip."""
    paths = (folder / f"{name}{suffix}" for name in names for suffix in ("", ".gz"))
    return next((path for path in paths if path.exists()), None)


def existing_file(name: str) -> Path:
    """What `--reports` names. Raises InputError where it is not there."""
    path = path_of(name)
    if not path.exists():
        raise InputError(f"--reports {name}: there is no such file or folder; mend it")
    return path


def needed(folder: Path, kind: str, *wanted: Sequence[str]) -> list[Path]:
    """The files that a set must have, of each the first of its names that is there.

    Raises InputError, in one line for all, where some are not there.
    """
    found = [file_of(folder, *names) for names in wanted]
    if absent := [names for names, path in zip(wanted, found, strict=True) if path is None]:
        below = sorted(one for one in folder.iterdir() if one.is_dir() and file_of(one, *absent[0]))
        mend = f"give {below[0]} as SOURCE" if below else "give the folder that has them, or add them"
        names = ", and no ".join(" or ".join(names) for names in absent)
        raise InputError(f"{folder}: no {names} here, gzipped or not, which --kind {kind} reads; {mend}")
    return [path for path in found if path]


def check_columns(table: Table, *columns: str) -> None:
    """Raises InputError, in one line for all, where some of `columns` are not there."""
    if absent := [name for name in columns if name not in table.columns]:
        raise InputError(
            f"{table.where}: no column{'s' * (len(absent) > 1)} {', '.join(map(repr, absent))} among "
            f"{', '.join(filter(None, table.columns)) or 'none'}; give the table as it is published"
        )


def read_beside(path: Path, *columns: str) -> Iterator[Mapping[str, str]]:
    """The rows of a table that says more of the images than the set's first one does.

    Raises InputError where it is no such table, or one of its rows cannot be read.
    """
    table = read_csv(path, path.parent)
    check_columns(table, *columns)
    for row in table.rows:
        if isinstance(row, str):
            raise InputError(f"{path.parent}: {row}")
        yield row.values


def converted(
    table: Table, image: str, convert: Callable[[Mapping[str, str]], dict[str, str]]
) -> Iterator[Row | str]:
    """The rows with other values. A row of which `convert` raises BadSample becomes a line that says so, with
    what stands in the column `image`.
    """
    for row in table.rows:
        if isinstance(row, str):
            yield row
            continue
        try:
            yield Row(row.where, convert(row.values))
        except BadSample as error:
            yield f"{row.at(row.values[image])}: {error}"


def with_all_columns(table: Table) -> Table:
    """The same table, its rows with an empty cell for each column that they lack."""
    empty = dict.fromkeys(table.columns, "")
    rows = [row if isinstance(row, str) else Row(row.where, {**empty, **row.values}) for row in table.rows]
    return replace(table, rows=rows)


def split_of(path: str, said: str = "", *, by_name: bool = False) -> str:
    """The split that a column `said`, else the one that a folder of the path tells or, where `by_name`, a
    word of the file's name; '' where none does.
    """
    parts = PurePosixPath(path)
    words = re.split(r"[^a-z]+", parts.stem.lower()) if by_name else []
    told = [said.lower(), *(part.lower() for part in parts.parent.parts), *words]
    return next((SPLIT_NAMES[word] for word in told if word in SPLIT_NAMES), "")


def images_by_name(folder: Path) -> dict[str, list[str]]:
    """Name of a file -> the paths below the folder of the images that are so called."""
    found: dict[str, list[str]] = {}
    for path in image_files(folder):
        found.setdefault(normal_name(path.name), []).append(normal_name(str(path.relative_to(folder))))
    return found


def the_image(name: str, paths: Sequence[str]) -> str:
    """The one path of an image that a table names. Raises BadSample where there are none or several."""
    if not paths:
        raise BadSample("there is no such image in any folder of the set; add it, or allow it by --skip-bad")
    if len(paths) > 1:
        raise BadSample(f"there are {len(paths)} images of this name, such as {paths[0]}; keep one")
    return paths[0]


def age_of(text: str) -> str:
    """An age in years, OLDEST at most; '' where it is none that a person can have.

    Also of DICOM's form, such as `058Y` or `004M`.
    """
    match = re.fullmatch(r"(\d{1,4})(?:\.\d+)?([YMWD]?)", text.strip().upper())
    if not match:
        return ""
    years = int(match[1]) // {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}[match[2]]
    return "" if years > OLDEST_EVER else str(min(years, OLDEST))


def sex_of(text: str) -> str:
    """`female`, `male` or ''."""
    return _SEXES.get(text.strip().casefold(), "")


def view_of(text: str) -> str:
    """`PA`, `AP`, `Lateral`, `AP supine`, '' where it is unknown, or another view as it is written."""
    return _VIEWS.get(text.strip().casefold(), text.strip())


def of_views(rows: Iterable[Row | str], views: Sequence[str]) -> tuple[list[Row | str], list[str]]:
    """The rows of the views that are asked for, all where none is; and what to say of the others.

    Raises InputError for a view that no row has.
    """
    rows = list(rows)
    if not views:
        return rows, []
    there = {row.values["view"].casefold(): row.values["view"] for row in rows if isinstance(row, Row)}
    wanted = {view_of(view).casefold(): view for view in views}
    if absent := [view for name, view in wanted.items() if name not in there]:
        raise InputError(
            f"--view: no image is {', '.join(map(repr, absent))}; there are "
            f"{', '.join(sorted(filter(None, there.values()))) or 'none that are named'}"
        )
    kept = [row for row in rows if isinstance(row, str) or row.values["view"].casefold() in wanted]
    left = len(rows) - len(kept)
    return kept, [f"{left} images are left out: --view takes {', '.join(views)}"] if left else []


def of_captions(
    rows: Iterable[Row | str], columns: Columns, fields: Sequence[str]
) -> tuple[list[Row | str], list[str]]:
    """The rows that have a caption, where it is one of the set's columns; and what to say of the others."""
    rows, column = list(rows), columns.caption
    if not isinstance(column, str) or column not in fields:
        return rows, []
    kept = [row for row in rows if isinstance(row, str) or row.values[column]]
    left = len(rows) - len(kept)
    return kept, [f"{left} images are left out: they have no {column.replace('_', ' ')}"] if left else []


def source_of_set(
    table: Table, folder: Path, columns: Columns, boxes: Boxes | None = None, **chosen: str
) -> Source:
    """The images of a published set, as `source_of_rows` makes them; the record says what was `chosen`, and
    what the captions are made of.
    """
    source = source_of_rows(table, SetImages(folder, None), columns, boxes)
    source.chosen = {"caption": str(columns.caption), **chosen}
    return source


class SetImages(FolderImages):
    """The images of a published set, whose table may name fewer than there are."""

    def left_out(self, table: Table) -> str | None:
        """See `Images`: which rows are not taken is said by who reads the table."""
        return None
