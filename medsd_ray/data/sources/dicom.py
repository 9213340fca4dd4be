"""A folder of DICOM files, de-identified: of the tags only those named here are read, and only known codes
are passed on.

Captions come from `metadata.csv` beside the files (columns `image`, `report`, labels) where there is one,
else from the view, the body part and the modality. No text of a tag is ever copied: people write names into
any of them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from medsd_ray.data.labels import as_label
from medsd_ray.data.sources.columns import Columns
from medsd_ray.data.sources.dicom_files import (
    count_links,
    dicom_files,
    frame_count,
    image_size,
    read_frame,
    read_header,
    text,
)
from medsd_ray.data.sources.files import ImageFile, NamedFiles, Shown, existing_folder, left_out
from medsd_ray.data.sources.frames import Frames, chosen
from medsd_ray.data.sources.masks import MaskFile, mask_file, read_boxes
from medsd_ray.data.sources.regular import check_file
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.rows import source_of_rows
from medsd_ray.data.sources.source import BadSample, Source
from medsd_ray.data.sources.table import TABLE, Row, Table, normal_name, read_table
from medsd_ray.errors import InputError

# The fields that go into labels, each with the codes that do (PS3.3 C.7.3.1.1.1, C.8.11.7.1, PS3.16 annex L);
# others are dropped.
ALLOWED = {
    "Modality": {"CR", "DX", "RG", "RF", "CT", "MR", "MG", "US", "XA", "PT", "NM", "PX", "IO", "OT"},
    "ViewPosition": {"PA", "AP", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LATERAL", "CC", "MLO", "ML", "LM"},
    "PatientSex": {"M", "F", "O"},
    "BodyPartExamined": {
        "CHEST", "THORAX", "LUNG", "HEART", "ABDOMEN", "PELVIS", "HEAD", "SKULL", "BRAIN", "NECK", "BREAST",
        "SPINE", "CSPINE", "TSPINE", "LSPINE", "SHOULDER", "ELBOW", "WRIST", "HAND", "HIP", "KNEE", "ANKLE",
        "FOOT", "LEG", "ARM", "EXTREMITY", "CLAVICLE", "RIB", "STERNUM", "KIDNEY", "LIVER", "EYE", "JAW",
        "WHOLEBODY",
    },
}  # fmt: skip


FIELDS = ("age", "sex", "view", "body_part", "modality")
"""What a caption's template may name of a header."""
_AGE = "PatientAge"
_OF_TABLES = {
    "image_column": "--image-column",
    "caption_column": "--caption-column",
    "label_columns": "--label-column",
    "mask_columns": "--mask-column",
    "domain_column": "--domain-column",
    "yes_labels": "--yes-label",
}
"""Options that name columns of metadata.csv alone."""
_IMAGE_FIELDS = ["Rows", "Columns", "NumberOfFrames", "BurnedInAnnotation"]
_SUBSTITUTES = ["StudyInstanceUID", "PatientName", "OtherPatientIDs", "AccessionNumber", "StudyID"]
"""What may stand for a patient where the tag that should is empty. Their values are counted, never shown."""
PROPOSED = 2
"""How many of them a refusal names."""


_NAMES = {
    "CT": "CT image",
    "MR": "MR image",
    "MG": "mammogram",
    "US": "ultrasound image",
    "PT": "PET image",
    "NM": "scan",
}


_VIEWS = {"PA": "frontal", "AP": "frontal"} | dict.fromkeys(("LL", "RL", "LATERAL"), "lateral")


_PARTS = {
    "THORAX": "chest",
    "CSPINE": "cervical spine",
    "TSPINE": "thoracic spine",
    "LSPINE": "lumbar spine",
} | {
    "WHOLEBODY": "whole-body",
    "EXTREMITY": "limb",
}


_X_RAY = {"CR", "DX", "RG", "RF", "XA", "PX", "IO", "OT"}


class NamelessError(BadSample):
    """A file does not say who its patient is. `others`: what else it says that might."""

    def __init__(self, keyword: str, others: dict[str, str]) -> None:
        super().__init__(f"has no {keyword}")
        self.others = others


def scan(request: SourceRequest) -> Source:
    """The DICOM images below SOURCE, from their headers; pixels are read later.

    The patient's column may be the keyword of a tag; by default it is PatientID. A metadata.csv, where there
    is one, decides which files are taken.

    Raises:
        InputError: There is no such folder, keyword or column, or a column cannot be what it is asked for.
    """
    folder = existing_folder(request.source)
    listed = (folder / TABLE).exists()
    columns = Columns(patient="PatientID").as_asked(request)
    if columns.patient == "patient_id":
        columns = replace(columns, patient="PatientID")
    keyword = columns.patient if columns.patient and tag_for_keyword(columns.patient) is not None else None
    if not listed and (asked := [option for field, option in _OF_TABLES.items() if getattr(request, field)]):
        raise InputError(f"{folder}: no {TABLE} here, whose columns {' and '.join(asked)} name")
    if not listed and columns.patient and not keyword:
        raise InputError(
            f"--patient-column {columns.patient!r} is no DICOM keyword; name one, such as PatientID"
        )
    images = DicomImages(folder, keyword, request.frames, captions=not listed)
    table = read_table(folder / TABLE, folder) if listed else images.table()
    found = source_of_rows(table, images, columns, read_boxes(request.boxes))
    found.split_by = columns.patient and (request.patient_column or "patient_id")
    hint = images.proposed()
    found.problems = [
        line + hint if line.endswith(f": has no {keyword}") else line for line in found.problems
    ]
    if not listed and (links := count_links(folder)):
        found.notes.append(f"{links} links are not followed; give files themselves")
    return found


class DicomImages:
    """DICOM files below a folder, as `files.Images`, with what their headers say."""

    def __init__(self, folder: Path, keyword: str | None, frames: Frames | None, captions: bool):
        """`keyword`: the tag that names the patient, or None; `captions`: whether a caption is made of the
        header.
        """
        self.files, self.keyword, self.captions = NamedFiles(folder), keyword, captions
        self.frames: Frames | None = frames
        self.fields = [*FIELDS, *([keyword] if keyword else []), *(["report"] if captions else [])]
        self.nameless: list[NamelessError] = []
        self._paths: dict[str, Path] = {}

    def table(self) -> Table:
        """A row for each DICOM file, which names it alone."""
        folder = self.files.folder
        self._paths = {self.files.relative(path): path for path in dicom_files(folder)}
        return Table(folder.name, str(folder), ["image"], [Row("", {"image": name}) for name in self._paths])

    def find(self, name: str) -> ImageFile:
        """See `files.Images`. Raises NamelessError where the header does not name the patient."""
        path = self._paths[name] if name in self._paths else self.files.find(name)
        check_file(self.files.folder, path)
        keywords = [*_IMAGE_FIELDS, *ALLOWED, _AGE, *_SUBSTITUTES, *([self.keyword] if self.keyword else [])]
        data = read_header(path, keywords)
        image_size(data)
        count = frame_count(data)
        taken = chosen(count, self.frames)
        labels, values = allowed_fields(data), template_fields(data)
        if self.keyword:
            values[self.keyword] = self._patient(data, self.keyword)
        if self.captions:
            values["report"] = caption(labels)
        labels |= {_AGE: values["age"]} if values["age"] else {}
        burned = text(data, "BurnedInAnnotation").upper() == "YES"
        warnings = ("burned-in text (BurnedInAnnotation is YES)",) if burned else ()

        def read(number: int) -> Shown:
            shown = read_frame(path, number)
            return shown.image, shown.oddities

        size = path.stat().st_size
        return ImageFile(
            normal_name(name),
            size,
            read,
            taken=taken,
            count=count,
            values=values,
            labels=labels,
            warnings=warnings,
        )

    def mask(self, name: str) -> MaskFile:
        """See `files.Images`: a mask is an image file, not DICOM."""
        return mask_file(self.files.find(name))

    def left_out(self, table: Table) -> str | None:
        """See `files.Images`."""
        return left_out("DICOM files", table, map(self.files.relative, dicom_files(self.files.folder)))

    def _patient(self, data: Dataset, keyword: str) -> str:
        if not (patient := text(data, keyword)):
            others = {one: value for one in _SUBSTITUTES if one != keyword and (value := text(data, one))}
            self.nameless.append(NamelessError(keyword, others))
            raise self.nameless[-1]
        return patient

    def proposed(self) -> str:
        """What else could name the patients of files that do not: the tags that most of them have, and how
        many values each has.
        """
        values = {
            keyword: [error.others[keyword] for error in self.nameless if keyword in error.others]
            for keyword in _SUBSTITUTES
        }
        most = sorted((keyword for keyword in values if values[keyword]), key=lambda one: -len(values[one]))
        said = [
            f"{one} ({len(set(values[one]))} values in {len(values[one])} of {len(self.nameless)} files)"
            for one in most[:PROPOSED]
        ]
        return "; name another tag with --patient-column" + (f", such as {' or '.join(said)}" if said else "")


def allowed_fields(data: Dataset) -> dict[str, str]:
    """The values of ALLOWED's fields that are known codes."""
    values = {keyword: text(data, keyword).upper() for keyword in ALLOWED}
    return {keyword: value for keyword, value in values.items() if value in ALLOWED[keyword]}


def template_fields(data: Dataset) -> dict[str, str]:
    """What a caption's template may name beside columns: FIELDS, each '' where the header does not say it.

    The age is in whole years (PS3.5 6.2, AS), the sex a word; the view, body part and modality are words as
    in a caption.
    """
    codes = allowed_fields(data)
    view, part = codes.get("ViewPosition", ""), codes.get("BodyPartExamined", "")
    age = re.fullmatch(r"(\d{3})([DWMY])", text(data, _AGE).upper())
    years = int(age[1]) // {"D": 365, "W": 52, "M": 12, "Y": 1}[age[2]] if age else None
    return {
        "age": "" if years is None else as_label("age", str(years)),
        "sex": {"M": "male", "F": "female"}.get(codes.get("PatientSex", ""), ""),
        "view": _VIEWS.get(view, "") or view,
        "body_part": _PARTS.get(part, part.lower()),
        "modality": _modality(codes),
    }


def caption(fields: dict[str, str]) -> str:
    """Such as 'a frontal chest x-ray', from allowed fields alone."""
    part = fields.get("BodyPartExamined", "")
    words = [
        _VIEWS.get(fields.get("ViewPosition", ""), ""),
        _PARTS.get(part, part.lower()),
        _modality(fields),
    ]
    text = " ".join(word for word in words if word)
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _modality(fields: dict[str, str]) -> str:
    modality = fields.get("Modality", "")
    return _NAMES.get(modality) or ("x-ray" if modality in _X_RAY else "medical image")
