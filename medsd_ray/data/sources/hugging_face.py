"""Folders of Hugging Face `datasets`: an image folder, with `metadata.csv`, `metadata.jsonl` or
`metadata.parquet` or with a folder for each class, or Parquet files that hold the images themselves.

https://huggingface.co/docs/datasets/image_dataset says what an image folder is, and
https://huggingface.co/docs/hub/datasets-file-names-and-splits how names tell the split.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from medsd_ray.data.sources.captions import CaptionTemplate
from medsd_ray.data.sources.columns import Columns
from medsd_ray.data.sources.files import FolderImages, existing_folder, image_files
from medsd_ray.data.sources.masks import read_boxes
from medsd_ray.data.sources.published import SPLIT_NAMES, with_all_columns
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.rows import source_of_rows
from medsd_ray.data.sources.source import Source
from medsd_ray.data.sources.table import Row, Table, normal_name, plain_text, read_csv, read_parquet
from medsd_ray.errors import InputError

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
IMAGE, FILE_NAME, SPLIT, LABEL = "image", "file_name", "split", "label"
CAPTIONS = ("text", "caption", "report")
"""Columns that are the caption where none is named, the first of them that is there."""


def scan(request: SourceRequest) -> Source:
    """The images of the folder. Raises InputError where it is none of these, or a column is not there."""
    folder = existing_folder(request.source)
    files, boxes = list(_files(folder)), read_boxes(request.boxes)
    metadata = [path for path in files if path.name in METADATA]
    parquets = [path for path in files if path.suffix == ".parquet"]
    if metadata:
        table = _with_metadata(folder, metadata)
    elif parquets:
        from medsd_ray.data.sources.parquet_images import read_images

        table, images = read_images(folder, parquets, request.image_column, split_of)
        return source_of_rows(table, images, _columns(request, table), boxes)
    else:
        table = _by_class(folder, files)
    return source_of_rows(table, FolderImages(folder, request.frames), _columns(request, table), boxes)


def _columns(request: SourceRequest, table: Table) -> Columns:
    caption = next((name for name in CAPTIONS if name in table.columns), CAPTIONS[0])
    by_class = set(table.columns) == {IMAGE, SPLIT, LABEL}
    asked = replace(request, image_column=None)  # which the table calls IMAGE
    return Columns(
        image=IMAGE, caption=CaptionTemplate.parse("{label}") if by_class else caption, split=SPLIT
    ).as_asked(asked)


def _files(folder: Path) -> Iterator[Path]:
    """All files below the folder, by their names; nothing hidden, no links."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (
            path
            for name in sorted(names)
            if not name.startswith(".") and not (path := Path(parent, name)).is_symlink()
        )


def split_of(path: PurePosixPath, by_name: bool) -> str:
    """The split that a path below the folder tells by a folder, or, where `by_name`, by a word of the file's
    name; '' where none does.
    """
    for part in path.parent.parts:
        if split := SPLIT_NAMES.get(part.lower()):
            return split
    words = re.split(r"[^a-z]+", path.stem.lower()) if by_name else []
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")


def _with_metadata(folder: Path, paths: Sequence[Path]) -> Table:
    """The rows of all the folder's metadata files, with names from the folder on."""
    table = Table(paths[0].name, str(folder), [])
    for path in paths:
        part = _read_metadata(path)
        if FILE_NAME not in part.columns:
            raise InputError(
                f"{path}: no column {FILE_NAME!r} among {', '.join(part.columns) or 'none'}; "
                "--kind hf reads an image folder, whose metadata name each image so; for other tables "
                "choose --kind folder"
            )
        below = PurePosixPath(normal_name(path.relative_to(folder).as_posix())).parent
        table.notes += part.notes
        table.columns += [name for name in _renamed(part.columns) if name not in table.columns]
        table.rows += [row if isinstance(row, str) else _from_folder(row, below) for row in part.rows]
    table.columns = list(dict.fromkeys([*table.columns, SPLIT]))
    return with_all_columns(table)


def _renamed(columns: Iterable[str]) -> list[str]:
    return [IMAGE if name == FILE_NAME else name for name in columns]


def _from_folder(row: Row, below: PurePosixPath) -> Row:
    """A row with its files named from the folder on: `file_name` and columns such as `mask_file_name`."""
    values = {
        name: (below / cell).as_posix() if cell and name.endswith(FILE_NAME) else cell
        for name, cell in row.values.items()
    }
    image = values.pop(FILE_NAME)
    split = split_of(PurePosixPath(image), by_name=False)
    return Row(f"{below / row.where}" if below.parts else row.where, {SPLIT: split, **values, IMAGE: image})


def _read_metadata(path: Path) -> Table:
    if path.suffix == ".jsonl":
        return _read_lines(path)
    return read_parquet(path) if path.suffix == ".parquet" else read_csv(path, path.parent)


def _read_lines(path: Path) -> Table:
    """A table with a JSON object on each line; values that are lists or objects are left out."""
    table, left_out = Table(path.name, str(path), []), set[str]()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a table in UTF-8 ({error}); save it as one") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            table.rows.append(f"{where}: no JSON object; write one on each line, with a file_name")
            continue
        nested = {name for name, value in values.items() if isinstance(value, list | dict)}
        left_out |= nested
        row = {name: plain_text(value) for name, value in values.items() if name not in nested}
        table.columns += [name for name in row if name not in table.columns]
        table.rows.append(Row(where, row))
    if left_out:
        names = ", ".join(sorted(left_out))
        table.notes.append(f"{path.name}: columns left out, since they hold no plain values: {names}")
    return with_all_columns(table)


def _by_class(folder: Path, files: Sequence[Path]) -> Table:
    """A row for each image, labelled by the folder that it is in where there are several on one level."""
    images = [PurePosixPath(normal_name(path.relative_to(folder).as_posix())) for path in image_files(folder)]
    if any(path.suffix == ".arrow" for path in files):
        raise InputError(
            f"{folder}: a set that `save_to_disk` wrote; write it by `to_parquet`, and give that folder"
        )
    if not images:
        raise InputError(
            f"{folder}: no metadata.csv, metadata.jsonl, *.parquet or image here; mend SOURCE, or --kind"
        )
    labels = {image: image.parent.name for image in images if image.parent.name.lower() not in SPLIT_NAMES}
    one_level = len({len(image.parts) for image in images}) == 1
    classes = one_level and len({*labels.values()} - {""}) > 1
    rows: list[Row | str] = [
        Row(
            "",
            {
                IMAGE: image.as_posix(),
                SPLIT: split_of(image, by_name=False),
                **({LABEL: labels.get(image, "")} if classes else {}),
            },
        )
        for image in images
    ]
    return Table(folder.name, str(folder), [IMAGE, SPLIT, *([LABEL] if classes else [])], rows)
