"""CheXpert (Irvin et al. 2019, arXiv:1901.07031) and CheXpert Plus (Chambon et al. 2024, arXiv:2405.19538) as
they are published.

`train.csv` and `valid.csv` have a row for each image, whose path names the patient. The full-size set comes
in four batches, the first of which has the tables. The table of CheXpert Plus has the reports of the same
images; alone it stands for the set, without labels of findings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

from medsd_ray.data.labels import LabelColumns
from medsd_ray.data.sources.captions import CaptionTemplate
from medsd_ray.data.sources.columns import Columns
from medsd_ray.data.sources.files import existing_folder
from medsd_ray.data.sources.findings import CHEXPERT, labelled
from medsd_ray.data.sources.published import (
    CAPTION,
    SPLIT_NAMES,
    age_of,
    check_columns,
    converted,
    existing_file,
    file_of,
    needed,
    of_captions,
    of_views,
    read_beside,
    sex_of,
    source_of_set,
    view_of,
)
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import BadSample, Source
from medsd_ray.data.sources.table import Table, read_csv

TABLES = ("train.csv", "valid.csv")
PLUS = "df_chexpert_plus_240401.csv"
FIELDS = ["image", "patient_id", "age", "sex", "view", "finding", "finding_names", *CHEXPERT, "split"]
"""What a row has, in a caption and as a label."""
SECTIONS = ("impression", "findings")
NO_REPORT = dict.fromkeys((*SECTIONS, "report"), "")
"""What it has beside these where there are reports; `report` is the impression, else the findings."""
_PATH = re.compile(r"(?:^|/)((train|valid|test)/(patient\d+)/.+)\.\w+$")
FIRST_BATCH = "CheXpert-v1.0 batch 1 (validate & csv)"
"""Where the full-size set has its tables."""


def scan(request: SourceRequest) -> Source:
    """The images of the tables. Raises InputError where the set's files or columns are not there."""
    folder = existing_folder(request.source)
    at = folder / FIRST_BATCH if (folder / FIRST_BATCH).is_dir() else folder
    first = needed(at, "chexpert", (*TABLES, PLUS))
    plus = existing_file(request.reports) if request.reports else file_of(folder, PLUS)
    tables = [path for name in TABLES if (path := file_of(at, name))] or first
    reports = _reports(plus) if plus else None
    images, uncertain = _Images(folder), request.uncertain or "omit"

    def convert(cells: Mapping[str, str]) -> dict[str, str]:
        key, split, patient = _parts(cells["Path"])
        values = {
            "image": images.of(key, cells["Path"]),
            "patient_id": patient,
            "age": "" if cells["Age"] == "0" else age_of(cells["Age"]),  # which the set writes for unknown
            "sex": sex_of(cells["Sex"]),
            "view": _view(cells["Frontal/Lateral"], cells["AP/PA"]),
            **labelled(cells, uncertain),
            "split": SPLIT_NAMES[split],
        }
        return values if reports is None else values | reports.get(key, NO_REPORT)

    read = [_table(path, folder) for path in tables]
    rows, notes = of_views(chain(*(converted(table, "Path", convert) for table in read)), request.views)
    columns = Columns(
        caption=CaptionTemplate.parse(CAPTION) if reports is None else "report",
        labels=LabelColumns(CHEXPERT),
        split="split",
    ).as_asked(request)
    fields = FIELDS if reports is None else [*FIELDS, *NO_REPORT]
    rows, more = of_captions(rows, columns, fields)
    notes += more
    found = Table(read[0].name, str(folder), fields, rows, notes)
    return source_of_set(found, folder, columns, uncertain=uncertain)


def _table(path: Path, folder: Path) -> Table:
    """A table of the set, with the columns of `train.csv`, whichever it is."""
    table = read_csv(path, folder)
    if "path_to_image" not in table.columns:
        check_columns(table, "Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT)
        return table
    names = {"path_to_image": "Path", "sex": "Sex", "age": "Age", "frontal_lateral": "Frontal/Lateral"}
    names |= {"ap_pa": "AP/PA"}
    check_columns(table, *names)

    def renamed(cells: Mapping[str, str]) -> dict[str, str]:
        return {name: cells[plus] for plus, name in names.items()}

    return replace(table, rows=list(converted(table, "path_to_image", renamed)))


def _reports(path: Path) -> dict[str, dict[str, str]]:
    """Image, without its suffix -> what CheXpert Plus says of it."""
    found = {}
    for cells in read_beside(path, "path_to_image", *(f"section_{name}" for name in SECTIONS)):
        impression, findings = (" ".join(cells[f"section_{name}"].split()) for name in SECTIONS)
        report = {"impression": impression, "findings": findings, "report": impression or findings}
        if match := _PATH.search(cells["path_to_image"]):
            found[match[1]] = report
    return found


def _parts(path: str) -> tuple[str, str, str]:
    """Of an image's path: from its split on without suffix, the split, the patient."""
    match = _PATH.search(path)
    if not match:
        raise BadSample("its path names no split and patient, as train/patient00001/... does; mend the row")
    return match[1], match[2], match[3]


class _Images:
    """Where the images lie: in `train` and `valid`, in the full-size set's batches, or, as PNG, in `PNG`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.batches = sorted(path.name for path in folder.glob("CheXpert-v1.0 batch * (train *)"))
        self._places: dict[tuple[str, str], str] = {}

    def of(self, key: str, path: str) -> str:
        """The path below the set's folder."""
        split, patient, rest = key.split("/", 2)
        if (split, patient) not in self._places:
            self._places[split, patient] = self._place(split, patient)
        names = [f"{self._places[split, patient]}/{rest}{end}" for end in (Path(path).suffix, ".png", ".jpg")]
        return next((name for name in names if (self.folder / name).exists()), names[0])

    def _place(self, split: str, patient: str) -> str:
        """The patient's folder, as the set has it where there is none."""
        places = [f"{below}{split}/{patient}" for below in ("", "PNG/", "PNG/PNG/", f"{FIRST_BATCH}/")]
        if split == "train":
            places += [f"{batch}/{patient}" for batch in self.batches]
        return next((place for place in places if (self.folder / place).is_dir()), places[0])


def _view(side: str, projection: str) -> str:
    return view_of(projection if side == "Frontal" and projection else side)
