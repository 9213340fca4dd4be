"""NIH ChestX-ray14 (Wang et al. 2017, arXiv:1705.02315) as it is published.

`Data_Entry_2017.csv` (or `_v2020`) has a row for each image; the images lie in `images_001/images` and so on,
or in one folder. `BBox_List_2017.csv` and the two lists of the published split are read where they are there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from medsd_ray.data.labels import LabelColumns
from medsd_ray.data.sources.captions import CaptionTemplate
from medsd_ray.data.sources.columns import Columns
from medsd_ray.data.sources.files import existing_folder
from medsd_ray.data.sources.findings import NIH, SEPARATOR, listed
from medsd_ray.data.sources.image_files import FORMATS
from medsd_ray.data.sources.masks import Box, Boxes
from medsd_ray.data.sources.published import (
    CAPTION,
    OLDEST_EVER,
    age_of,
    check_columns,
    converted,
    file_of,
    images_by_name,
    needed,
    of_views,
    sex_of,
    source_of_set,
    the_image,
    view_of,
)
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import Source
from medsd_ray.data.sources.table import Table, read_cells, read_csv
from medsd_ray.errors import InputError

FIELDS = ["image", "patient_id", "age", "sex", "view", "finding", "finding_names", *NIH, "split"]
"""What a row has, in a caption and as a label."""
TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
BOXES, BOXES_SIZE = "BBox_List_2017.csv", 1024
"""Boxes of some images, in pixels of an image of that size."""
OTHER_NAMES = {"Infiltrate": "Infiltration"}
"""Findings that the table of boxes calls otherwise."""
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}


def scan(request: SourceRequest) -> Source:
    """The images of the table. Raises InputError where the set's files or columns are not there."""
    folder = existing_folder(request.source)
    (path,) = needed(folder, "nih", TABLES)
    table = read_csv(path, folder)
    sex = "Patient Sex" if "Patient Sex" in table.columns else "Patient Gender"
    check_columns(table, "Image Index", "Finding Labels", "Patient ID", "Patient Age", sex, "View Position")
    paths, splits, impossible = images_by_name(folder), _splits(folder), 0

    def convert(cells: Mapping[str, str]) -> dict[str, str]:
        nonlocal impossible
        name, age = cells["Image Index"], age_of(cells["Patient Age"])
        impossible += not age
        return {
            "image": the_image(name, paths.get(name, ())),
            "patient_id": cells["Patient ID"],
            "age": age,
            "sex": sex_of(cells[sex]),
            "view": view_of(cells["View Position"]),
            **listed(filter(None, cells["Finding Labels"].split(SEPARATOR)), NIH),
            "split": splits.get(name, ""),
        }

    rows, notes = of_views(converted(table, "Image Index", convert), request.views)
    if impossible:
        notes.append(f"{impossible} ages are left out: none, or beyond {OLDEST_EVER} years")
    columns = Columns(
        caption=CaptionTemplate.parse(CAPTION), labels=LabelColumns(NIH), split="split"
    ).as_asked(request)
    found = Table(table.name, table.where, FIELDS, rows, notes)
    return source_of_set(found, folder, columns, _boxes(folder, paths))


def _boxes(folder: Path, paths: Mapping[str, Sequence[str]]) -> Boxes | None:
    """The boxes, in pixels of the images as they are here; None where there is no table of them.

    Cells are told by their order: the header names four of them as one, `Bbox [x,y,w,h]`.
    """
    path = file_of(folder, BOXES)
    if path is None:
        return None
    boxes = Boxes(path.name)
    for line, cells in list(read_cells(path))[1:]:
        name, finding, (x, y, w, h) = _box(f"{path} line {line}", cells)
        if image := next(iter(paths.get(name, ())), None):
            across, down = (pixels / BOXES_SIZE for pixels in _size(folder / image))
            box = Box(x * across, y * down, w * across, h * down, f"{path.name} line {line}")
            boxes.add(image, finding, box)
    return boxes


def _box(where: str, cells: Sequence[str]) -> tuple[str, str, tuple[float, float, float, float]]:
    """Image, finding and x, y, w, h of a row of the table of boxes. Raises InputError where it has none."""
    try:
        name, finding, *numbers = (cell.strip() for cell in cells[:6])
        x, y, w, h = map(float, numbers)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: no image, finding, x, y, w and h; copy it again") from error
    finding = OTHER_NAMES.get(finding, finding)
    if finding not in NIH or not math.isfinite(x + y + w + h) or min(w, h) <= 0:
        raise InputError(f"{where}: no finding of this set, or a box without area; copy it again")
    return name, finding, (x, y, w, h)


def _size(path: Path) -> tuple[int, int]:
    """Width and height; those of BOXES_SIZE for what is no image, which is said where it is read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.size
    except Exception:  # a damaged header leads Pillow to nearly any kind
        return BOXES_SIZE, BOXES_SIZE


def _splits(folder: Path) -> dict[str, str]:
    """Image -> published split."""
    splits = {}
    for split, name in LISTS.items():
        if path := file_of(folder, name):
            try:
                splits |= dict.fromkeys(path.read_text(encoding="utf-8").split(), split)
            except (OSError, ValueError) as error:
                raise InputError(f"{path}: no list of images ({error}); copy it again") from error
    return splits
