"""NIH ChestX-ray14 (Wang et al. 2017, arXiv:1705.02315) as it is published.

`Data_Entry_2017.csv` (or `_v2020`) has a row for each image; the images lie in `images_001/images` and so on,
or in one folder. `BBox_List_2017.csv` and the two lists of the published split are read where they are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medsd_ray.data.labels import LabelColumns
from medsd_ray.data.sources.captions import CaptionTemplate
from medsd_ray.data.sources.columns import Columns
from medsd_ray.data.sources.files import existing_folder
from medsd_ray.data.sources.findings import NIH, SEPARATOR, listed
from medsd_ray.data.sources.published import (
    CAPTION,
    SetImages,
    age_of,
    check_columns,
    converted,
    file_of,
    images_by_name,
    needed,
    of_views,
    sex_of,
    the_image,
    view_of,
)
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.rows import source_of_rows
from medsd_ray.data.sources.source import Source
from medsd_ray.data.sources.table import Table, read_csv
from medsd_ray.errors import InputError

FIELDS = ["image", "patient_id", "age", "sex", "view", "finding", "finding_names", *NIH, "split"]
"""What a row has, in a caption and as a label."""
TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
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
        notes.append(f"{impossible} ages are left out: no person is so old")
    columns = Columns(
        caption=CaptionTemplate.parse(CAPTION), labels=LabelColumns(NIH), split="split"
    ).as_asked(request)
    found = Table(table.name, table.where, FIELDS, rows, notes)
    return source_of_rows(found, SetImages(folder, None), columns)


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
