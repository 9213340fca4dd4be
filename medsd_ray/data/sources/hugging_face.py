"""Folders of Hugging Face `datasets`: an image folder, with `metadata.csv`, `metadata.jsonl` or
`metadata.parquet` or with a folder for each class, or Parquet files that hold the images themselves.

https://huggingface.co/docs/datasets/image_dataset says what an image folder is, and
https://huggingface.co/docs/hub/datasets-file-names-and-splits how names tell the split.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from medsd_ray.data.sources.captions import CaptionTemplate
from medsd_ray.data.sources.columns import Columns
from medsd_ray.data.sources.files import FolderImages, existing_folder, image_files
from medsd_ray.data.sources.masks import read_boxes
from medsd_ray.data.sources.published import SPLIT, SPLIT_NAMES, split_of, with_all_columns
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.rows import source_of_rows
from medsd_ray.data.sources.source import Source
from medsd_ray.data.sources.table import Row, Table, normal_name, plain_text, read_csv, read_parquet
from medsd_ray.errors import InputError

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME, LABEL = "file_name", "label"
CAPTIONS = ("text", "caption", "report")
"""Columns that are the caption where none is named, the first of them that is there."""


def scan(request: SourceRequest) -> Source:
    """The images of the folder. Raises InputError where it is none of these, or a column is not there."""
    folder = existing_folder(request.source)
    files, boxes = list(_files(folder)), read_boxes(request.boxes)
    metadata = [path for path in files if path.name in METADATA]
    parquets = [path for path in files if path.suffix == ".parquet"]
    image, images = request.image_column or FILE_NAME, FolderImages(folder, request.frames)
    caption: str | CaptionTemplate | None = None
    if metadata:
        table = _with_metadata(folder, metadata, image, request.mask_columns)
    elif parquets:
        from medsd_ray.data.sources.parquet_images import read_images

        table, images, image = read_images(folder, parquets, request.image_column)
    else:
        table, caption = _by_class(folder, files), CaptionTemplate.parse(f"{{{LABEL}}}")
    if caption is None or LABEL not in table.columns:
        caption = next((name for name in CAPTIONS if name in table.columns), CAPTIONS[0])
    columns = Columns(image=image, caption=caption, split=SPLIT).as_asked(request)
    return source_of_rows(table, images, columns, boxes)


def _files(folder: Path) -> Iterator[Path]:
    """All files below the folder, by their names; nothing hidden, no links."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (
            path
            for name in sorted(names)
            if not name.startswith(".") and not (path := Path(parent, name)).is_symlink()
        )


def _with_metadata(folder: Path, paths: Sequence[Path], image: str, masks: Sequence[str]) -> Table:
    """The rows of all the folder's metadata files, with files named from the folder on: in the columns
    `image` and `masks`, and in those such as `mask_file_name`.
    """
    table = Table(paths[0].name, str(folder), [])
    for path in paths:
        part = _read_metadata(path)
        if image not in part.columns:
            raise InputError(
                f"{path}: no column {image!r} among {', '.join(part.columns) or 'none'}; name the images' "
                "with --image-column, or, where this is no image folder, choose --kind folder"
            )
        below = PurePosixPath(normal_name(path.relative_to(folder).as_posix())).parent
        table.notes += part.notes
        table.unread += part.unread
        table.columns += [name for name in part.columns if name not in table.columns]
        for row in part.rows:
            if isinstance(row, str):
                table.rows.append(f"{below}/{row}" if below.parts else row)
                continue
            named = {
                name: (below / cell).as_posix()
                for name, cell in row.values.items()
                if cell and (name in (image, *masks) or name.endswith(FILE_NAME))
            }
            split = split_of(named.get(image, ""), row.values.get(SPLIT, ""))
            table.rows.append(Row((below / row.where).as_posix(), {**row.values, **named, SPLIT: split}))
    table.columns = list(dict.fromkeys([*table.columns, SPLIT]))
    return with_all_columns(table)


def _read_metadata(path: Path) -> Table:
    if path.suffix == ".jsonl":
        return _read_lines(path)
    return read_parquet(path) if path.suffix == ".parquet" else read_csv(path, path.parent)


def _read_lines(path: Path) -> Table:
    """A table with a JSON object on each line; values that are lists or objects are left out."""
    table, left_out = Table(path.name, str(path), []), set[str]()
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a table in UTF-8 ({error}); save it as one") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            values = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            said = "no JSON object, or a name twice in one; write one on each line, with a file_name"
            table.rows.append(f"{where}: {said}")
            continue
        nested = {name for name, value in values.items() if isinstance(value, list | dict)}
        left_out |= nested
        row = {name: plain_text(value) for name, value in values.items() if name not in nested}
        table.columns += [name for name in row if name not in table.columns]
        table.rows.append(Row(where, row))
    if left_out:
        names = ", ".join(sorted(left_out))
        table.notes.append(f"{path.name}: columns left out, since they hold no plain values: {names}")
        table.unread = sorted(left_out)
    return with_all_columns(table)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises ValueError where a name is in it twice, so that a value would be lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError
    return values


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
    known = [{LABEL: labels.get(image, "")} if classes else {} for image in images]
    names = [image.as_posix() for image in images]
    rows: list[Row | str] = [
        Row("", {FILE_NAME: name, SPLIT: split_of(name), **more})
        for name, more in zip(names, known, strict=True)
    ]
    return Table(folder.name, str(folder), [FILE_NAME, SPLIT, *([LABEL] if classes else [])], rows)
