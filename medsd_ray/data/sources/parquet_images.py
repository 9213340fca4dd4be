"""Images that lie in Parquet files, as Hugging Face `datasets` writes them: each a record of its file's bytes
and its path.

A Parquet file is read in order, and shards are not written in that order; so the bytes are first copied to a
file without a name in the folder for temporary files, which needs as much room and is gone with the process.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from medsd_ray.data.sources.files import ImageFile, Shown
from medsd_ray.data.sources.image_files import MAX_BYTES, open_image, orientation
from medsd_ray.data.sources.masks import MaskFile
from medsd_ray.data.sources.published import SPLIT, split_of, with_all_columns
from medsd_ray.data.sources.source import BadSample
from medsd_ray.data.sources.table import Row, Table, check_header, plain_text, times_as_text
from medsd_ray.errors import InputError

BATCH = 64
"""Rows that are read at once."""


class CopiedImages:
    """The images' bytes in a temporary file, as `Images`."""

    fields = ()

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (open until the end)
        self._places: dict[str, tuple[int, int, str | None]] = {}

    def add(self, name: str, content: bytes, path: str | None) -> None:
        """Copies an image, whose file was called `path`. Raises InputError where there is no room for it."""
        try:
            self._places[name] = (self._file.tell(), len(content), path)
            self._file.write(content)
        except OSError as error:
            raise InputError(
                f"{tempfile.gettempdir()}: no room for the images of the Parquet files ({error.strerror}); "
                "name a larger folder by TMPDIR"
            ) from error

    def find(self, name: str) -> ImageFile:
        """See `Images`."""
        if name not in self._places:
            raise BadSample("its image has no bytes; write the set with its images in it, or drop the row")
        self._file.flush()
        offset, size, path = self._places[name]
        read, turned = partial(self._read, offset, size), partial(self._turned, offset, size)
        return ImageFile(name, size, read, turned, path=path)

    def _turned(self, offset: int, size: int, _: int) -> int:
        return orientation(os.pread(self._file.fileno(), size, offset))

    def _read(self, offset: int, size: int, _: int) -> Shown:
        if size > MAX_BYTES:
            raise BadSample(f"more than {MAX_BYTES:,} bytes, which no image has; remove it")
        return open_image(os.pread(self._file.fileno(), size, offset)), ()

    def mask(self, name: str) -> MaskFile:
        """See `Images`: there is none in a file of its own."""
        raise BadSample("Parquet files have no mask files beside them; write the set as an image folder")

    def left_out(self, table: Table) -> str | None:
        """See `Images`: each image is its own row's."""
        return None


def read_images(folder: Path, paths: Sequence[Path], column: str | None) -> tuple[Table, CopiedImages, str]:
    """The rows of Parquet files, their images, and the column with these: a row names its image there.

    Args:
        folder: What the files are named from.
        paths: The files; all have the same columns.
        column: The one with the images; the only one that can be it where it is None.

    Raises:
        InputError: A file is damaged, or no column has images, or several have.
    """
    table, images, image = Table("Parquet", str(folder), []), CopiedImages(), column
    for path in paths:
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                check_header(path, file.schema_arrow.names)
                image = _image_column(file.schema_arrow, image, path)
                table.rows += _rows(file, path.relative_to(folder).as_posix(), image, images)
                names = [image, *_plain_columns(file.schema_arrow), SPLIT]
                table.columns += [one for one in dict.fromkeys(names) if one not in table.columns]
                table.unread += [one for one in file.schema_arrow.names if one not in table.columns]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{path}: no sound Parquet file ({error}); copy it again") from error
    if table.unread:
        names = ", ".join(dict.fromkeys(table.unread))
        table.notes.append(f"{table.name}: columns left out, since they hold no plain values: {names}")
    return with_all_columns(table), images, image or ""


def _rows(file: pyarrow.parquet.ParquetFile, name: str, image: str, images: CopiedImages) -> list[Row | str]:
    classes, plain = _classes(file.schema_arrow), _plain_columns(file.schema_arrow)
    rows: list[Row | str] = []
    for batch in file.iter_batches(BATCH, columns=[image, *plain]):
        for cells in times_as_text(pa.Table.from_batches([batch])).to_pylist():
            key = f"{name}#{len(rows) + 1}"
            cell = cells[image] if isinstance(cells[image], dict) else {"bytes": cells[image]}
            if content := cell["bytes"]:
                images.add(key, content, cell.get("path"))
            values = {one: _value(cells[one], classes.get(one)) for one in plain}
            split = split_of(name, values.get(SPLIT, ""), by_name=True)
            rows.append(Row("", {**values, image: key, SPLIT: split}))
    return rows


def _image_column(schema: pa.Schema, asked: str | None, path: Path) -> str:
    there = [field.name for field in schema if _holds_images(field.type)]
    if asked is None and len(there) == 1:
        return there[0]
    if asked is not None and asked in there:
        return asked
    if not there:
        raise InputError(
            f"{path}: no column with images among {', '.join(schema.names) or 'none'}; for a table that "
            "names image files choose --kind folder"
        )
    said = "several columns have images" if asked is None else f"no column {asked!r} with images"
    raise InputError(f"{path}: {said}; name one with --image-column: {', '.join(there)}")


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return "bytes" in {kind.field(i).name for i in range(kind.num_fields)}
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _plain_columns(schema: pa.Schema) -> list[str]:
    return [f.name for f in schema if not pa.types.is_nested(f.type) and not _holds_images(f.type)]


def _classes(schema: pa.Schema) -> dict[str, list[str]]:
    """Column -> the names that its numbers stand for, as `datasets` notes them in the file."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = {
            name: feature["names"]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    return {name: names for name, names in found.items() if isinstance(names, list)}


def _value(cell: Any, names: list[str] | None) -> str:
    if names and isinstance(cell, int) and 0 <= cell < len(names):
        return plain_text(names[cell])
    return plain_text(cell)
