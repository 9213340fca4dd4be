"""Images with a table: a folder with `metadata.csv`, or a CSV, TSV or Parquet file of any name."""

from __future__ import annotations

from pathlib import Path

from medsd_ray.addresses import path_of
from medsd_ray.data.sources.columns import Columns
from medsd_ray.data.sources.files import FolderImages, existing_folder
from medsd_ray.data.sources.masks import read_boxes
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.rows import source_of_rows
from medsd_ray.data.sources.source import Source
from medsd_ray.data.sources.table import SUFFIXES, TABLE, read_table
from medsd_ray.errors import InputError


def scan(request: SourceRequest) -> Source:
    """The rows of SOURCE's table whose image is there; pixels are read later.

    Images are named from `images`, where it is given, else from the folder of the table.

    Raises:
        InputError: There is no such folder or table, or a column cannot be what it is asked for.
    """
    path = _table_file(request.source)
    folder = existing_folder(request.images, "--images") if request.images is not None else path.parent
    columns = Columns().as_asked(request)
    table, images = read_table(path, folder), FolderImages(folder, request.frames)
    return source_of_rows(table, images, columns, read_boxes(request.boxes))


def _table_file(source: str) -> Path:
    """The table that SOURCE is, or has in it."""
    if "://" not in source and path_of(source).is_file():
        if not source.lower().endswith(SUFFIXES):
            raise InputError(
                f"{source}: not a table; name a folder, or a file that ends in {', '.join(SUFFIXES)}"
            )
        return path_of(source)
    folder = existing_folder(source)
    if (folder / TABLE).exists():
        return folder / TABLE
    tables = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(SUFFIXES))
    mend = (
        f"name its table as SOURCE, such as {folder / tables[0]}"
        if tables
        else "add one with the columns image, report and patient_id"
    )
    raise InputError(f"{source}: no {TABLE} here; {mend}")
