"""A folder of DICOM files, de-identified: of the tags only those named here are read, and only known codes
are passed on.

Captions come from `metadata.csv` beside the files (columns `image`, `report`, labels) where there is one,
else from the view, the body part and the modality. No text of a tag is ever copied: people write names into
any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from medsd_ray.data.labels import LabelColumns
from medsd_ray.data.sources.dicom_files import (
    count_links,
    dicom_files,
    frame_count,
    image_size,
    read_frame,
    read_header,
    text,
)
from medsd_ray.data.sources.folder import existing_folder, unnamed
from medsd_ray.data.sources.frames import Frames, chosen, named
from medsd_ray.data.sources.regular import check_file
from medsd_ray.data.sources.source import BadSample, Content, Record, Source, stamp
from medsd_ray.data.sources.table import (
    TABLE,
    LabelledRows,
    NamedFiles,
    Row,
    Table,
    names_in,
    normal_name,
    read_rows,
)
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


def scan(
    source: str, split_by: str, asked: LabelColumns = LabelColumns(), frames: Frames | None = None
) -> Source:
    """The DICOM images below SOURCE, from their headers; pixels are read later.

    Args:
        source: A local folder.
        split_by: The keyword of the tag that names the patient (`patient_id` means PatientID), or a column of
            metadata.csv.
        asked: The columns of metadata.csv that are asked for as labels.
        frames: Which frames to take of a file that has several; such a file is refused where it is None.

    Raises:
        InputError: There is no such folder, keyword or column, or a column cannot be a label.
    """
    folder = existing_folder(source)
    keyword = "PatientID" if split_by == "patient_id" else split_by
    found, nameless = Source("image"), []
    make = partial(_records, folder, frames)
    if (folder / TABLE).exists():
        known = tag_for_keyword(keyword) is not None
        rows = read_rows(Table(folder, None if known else split_by), asked)
        _scan_table(found, nameless, folder, rows, partial(make, keyword if known else None))
    elif asked != LabelColumns():
        raise InputError(f"{folder}: no {TABLE} here, whose columns --label-column and --yes-label name")
    elif tag_for_keyword(keyword) is None:
        raise InputError(f"--split-by {split_by!r} is no DICOM keyword; name one, such as PatientID")
    else:
        for path in dicom_files(folder):
            name = normal_name(path.relative_to(folder).as_posix())
            _add(found, nameless, name, partial(make, keyword, path, name, None, {}))
        if links := count_links(folder):
            found.notes.append(f"{links} links are not followed; give files themselves")
    _propose(found, nameless)
    return found


def _scan_table(
    found: Source,
    nameless: list[tuple[int, NamelessError]],
    folder: Path,
    rows: LabelledRows,
    make: Callable[[Path, str, Row, dict[str, str]], list[Record]],
) -> None:
    """As the table lists them; a file that it does not name is left out."""
    files, lines = NamedFiles(folder), {}
    found.notes += rows.notes
    for row in rows.rows:
        if isinstance(row, str):
            found.problems.append(row)
            continue
        name = normal_name(row.image)
        if (first := lines.setdefault(name, row.line)) != row.line:
            found.problems.append(f"{row.where}: already on line {first}; keep one of them")
            continue
        of_row = rows.labels(row)
        _add(
            found,
            nameless,
            row.where,
            lambda row=row, name=name, of_row=of_row: make(files.find(name), name, row, of_row),
        )
    if left := unnamed(map(files.relative, dicom_files(folder)), names_in(rows.rows)):
        found.notes.append(f"{left} DICOM files are left out: {TABLE} has no row for them")


def _add(
    found: Source,
    nameless: list[tuple[int, NamelessError]],
    where: str,
    make: Callable[[], list[Record]],
) -> None:
    """Adds what `make` makes, or a line of what is wrong; `nameless` has the places of those lines that
    `_propose` completes.
    """
    try:
        found.records += make()
    except BadSample as error:
        if isinstance(error, NamelessError):
            nameless.append((len(found.problems), error))
        found.problems.append(f"{where}: {error}")


def _propose(found: Source, nameless: list[tuple[int, NamelessError]]) -> None:
    """Says what else could name the patients of files that do not: the tags that most of them have, and how
    many values each has.
    """
    values = {
        keyword: [error.others[keyword] for _, error in nameless if keyword in error.others]
        for keyword in _SUBSTITUTES
    }
    most = sorted((keyword for keyword in values if values[keyword]), key=lambda one: -len(values[one]))
    said = [
        f"{keyword} ({len(set(values[keyword]))} values in {len(values[keyword])} of {len(nameless)} files)"
        for keyword in most[:PROPOSED]
    ]
    hint = f", such as {' or '.join(said)}" if said else ""
    for place, _ in nameless:
        found.problems[place] += f"; name another tag with --split-by{hint}"


def _records(
    folder: Path,
    frames: Frames | None,
    keyword: str | None,
    path: Path,
    name: str,
    row: Row | None,
    of_row: dict[str, str],
) -> list[Record]:
    """A record for each frame that is taken: identity and checks from the header; `of_row` are the row's
    labels.
    """
    check_file(folder, path)
    data = read_header(path, [*_IMAGE_FIELDS, *ALLOWED, *_SUBSTITUTES, *([keyword] if keyword else [])])
    image_size(data)
    count = frame_count(data)
    taken = chosen(count, frames)
    patient = text(data, keyword) if keyword else row.patient if row else ""
    if not patient:
        assert keyword is not None  # a row without a patient is no row
        others = {one: value for one in _SUBSTITUTES if one != keyword and (value := text(data, one))}
        raise NamelessError(keyword, others)
    labels = of_row | allowed_fields(data)
    report = row.report if row else caption(labels)
    burned = text(data, "BurnedInAnnotation").upper() == "YES"
    warnings = ("burned-in text (BurnedInAnnotation is YES)",) if burned else ()
    mark = stamp(path.stat().st_size, report, labels, *([list(taken)] if count > 1 else []))
    where = row.where if row else name
    return [
        Record(
            named(name, n, count),
            patient,
            where if count == 1 else f"{where}, frame {n + 1}",
            mark,
            partial(_read, path, n, report, labels, warnings),
        )
        for n in taken
    ]


def allowed_fields(data: Dataset) -> dict[str, str]:
    """The values of ALLOWED's fields that are known codes."""
    values = {keyword: text(data, keyword).upper() for keyword in ALLOWED}
    return {keyword: value for keyword, value in values.items() if value in ALLOWED[keyword]}


def caption(fields: dict[str, str]) -> str:
    """Such as 'a frontal chest x-ray', from allowed fields alone."""
    modality = fields.get("Modality", "")
    name = _NAMES.get(modality) or ("x-ray" if modality in _X_RAY else "medical image")
    part = fields.get("BodyPartExamined", "")
    words = [_VIEWS.get(fields.get("ViewPosition", ""), ""), _PARTS.get(part, part.lower()), name]
    text = " ".join(word for word in words if word)
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _read(path: Path, frame: int, report: str, labels: dict[str, str], warnings: tuple[str, ...]) -> Content:
    shown = read_frame(path, frame)
    return Content(shown.image, report, labels, warnings=warnings, oddities=shown.oddities)
