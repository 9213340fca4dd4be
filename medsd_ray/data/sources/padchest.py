"""PadChest (Bustos et al. 2020, doi 10.1016/j.media.2020.101797) as it is published.

`PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv` has a row for each image, its findings as a list that
Python wrote, and its report in Spanish, as the stems of its words. The images, PNGs of 16 bits, lie in
folders `0` to `54`, or in one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from medsd_ray.data.sources.captions import CaptionTemplate
from medsd_ray.data.sources.columns import Columns
from medsd_ray.data.sources.files import existing_folder
from medsd_ray.data.sources.findings import in_words, python_list
from medsd_ray.data.sources.published import (
    CAPTION,
    age_of,
    check_columns,
    converted,
    images_by_name,
    needed,
    of_captions,
    of_views,
    sex_of,
    source_of_set,
    the_image,
    view_of,
)
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import Source
from medsd_ray.data.sources.table import Table, read_csv

TABLES = (
    "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv",
    "PADCHEST_chest_x_ray_images_labels_160K.csv",
)
FIELDS = ["image", "patient_id", "age", "sex", "view", "finding", "finding_names", "report"]
"""What a row has, in a caption and as a label."""
EXCLUDED = "exclude"
"""The label, and the projection, of images that the set's authors take out."""
_INVERTED = "MONOCHROME1"


def scan(request: SourceRequest) -> Source:
    """The images of the table. Raises InputError where the set's files or columns are not there."""
    folder = existing_folder(request.source)
    (path,) = needed(folder, "padchest", TABLES)
    table = read_csv(path, folder)
    names = ("ImageID", "PatientID", "PatientBirth", "PatientSex_DICOM", "StudyDate_DICOM", "Projection")
    check_columns(table, *names, "Labels", "Report", "PhotometricInterpretation_DICOM")
    paths, counts = images_by_name(folder), Counter[str]()

    def convert(cells: Mapping[str, str]) -> dict[str, str]:
        labels, view = python_list(cells["Labels"]), view_of(cells["Projection"])
        if EXCLUDED in (*labels, view.lower()):
            counts["excluded"] += 1
            return {}
        name, sex = cells["ImageID"], sex_of(cells["PatientSex_DICOM"])
        counts["inverted"] += cells["PhotometricInterpretation_DICOM"] == _INVERTED
        return {
            "image": the_image(name, paths.get(name, ())),
            "patient_id": cells["PatientID"],
            "age": _age(cells["PatientBirth"], cells["StudyDate_DICOM"]),
            "sex": sex,
            "view": view,
            **in_words(labels),
            "report": " ".join(cells["Report"].split()),
        }

    every = converted(table, "ImageID", convert)
    columns = Columns(caption=CaptionTemplate.parse(CAPTION)).as_asked(request)
    rows, notes = of_views((row for row in every if isinstance(row, str) or row.values), request.views)
    rows, more = of_captions(rows, columns, FIELDS)
    notes += more
    if counts["excluded"]:
        notes.append(f"{counts['excluded']} images are left out: the set's authors exclude them")
    if counts["inverted"]:
        notes.append(
            f"{counts['inverted']} images are {_INVERTED} in the table, so that zero may be white in them; "
            "look at some before you train"
        )
    found = Table(table.name, table.where, FIELDS, rows, notes)
    return source_of_set(found, folder, columns)


def _age(birth: str, study: str) -> str:
    """Years from the year of birth, such as `1930.0`, to the date of the study, such as `20140915`."""
    years = re.fullmatch(r"(\d{4})(?:\.0)?", birth), re.match(r"(\d{4})\d{4}", study)
    return age_of(str(max(0, int(years[1][1]) - int(years[0][1])))) if years[0] and years[1] else ""
