"""A folder of DICOM files, de-identified: of the tags only those named here are read, and only known codes
are passed on.

Captions come from `metadata.csv` beside the files (columns `image`, `report`, labels) where there is one,
else from the view, the body part and the modality. No text of a tag is ever copied: people write names into
any of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
import pydicom.config
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, get_decoder, pixel_array

from medsd_ray.data.labels import LabelColumns
from medsd_ray.data.sources.folder import existing_folder, unnamed
from medsd_ray.data.sources.pixels import check_pixels, scale, to_8bit
from medsd_ray.data.sources.source import BadSample, Content, Record, Source, stamp
from medsd_ray.data.sources.table import TABLE, NamedFiles, Row, Table, names_in, normal_name, read_rows
from medsd_ray.errors import InputError

# pydicom warns of odd values by quoting them, and a quoted value may be a name in a log.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

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


def scan(source: str, split_by: str, asked: LabelColumns = LabelColumns()) -> Source:
    """The DICOM images below SOURCE, from their headers; pixels are read later.

    Args:
        source: A local folder.
        split_by: The keyword of the tag that names the patient (`patient_id` means PatientID), or a column of
            metadata.csv.
        asked: The columns of metadata.csv that are asked for as labels. The known codes of tags are labels
            unasked.

    Raises:
        InputError: There is no such folder, keyword or column, or a column cannot be a label.
    """
    folder = existing_folder(source)
    keyword = "PatientID" if split_by == "patient_id" else split_by
    if (folder / TABLE).is_file():
        known = tag_for_keyword(keyword) is not None
        table = Table(folder, None if known else split_by)
        return _scan_table(folder, table, keyword if known else None, asked)
    if asked != LabelColumns():
        raise InputError(f"{folder}: no {TABLE} here, whose columns --label-column and --yes-label name")
    if tag_for_keyword(keyword) is None:
        raise InputError(f"--split-by {split_by!r} is no DICOM keyword; name one, such as PatientID")
    found = Source("image")
    for path in dicom_files(folder):
        name = normal_name(path.relative_to(folder).as_posix())
        _add(found, name, lambda path=path, name=name: _record(path, name, keyword, None, {}))
    return found


def _scan_table(folder: Path, table: Table, keyword: str | None, asked: LabelColumns) -> Source:
    """As the table lists them; a file that it does not name is left out."""
    rows, files = read_rows(table, asked), NamedFiles(folder)
    found, lines = Source("image", notes=rows.notes), {}
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
            row.where,
            lambda row=row, name=name, of_row=of_row: _record(files.find(name), name, keyword, row, of_row),
        )
    if left := unnamed(map(files.relative, dicom_files(folder)), names_in(rows.rows)):
        found.notes.append(f"{left} DICOM files are left out: {TABLE} has no row for them")
    return found


def _add(found: Source, where: str, make: Callable[[], Record]) -> None:
    try:
        found.records.append(make())
    except BadSample as error:
        found.problems.append(f"{where}: {error}")


def dicom_files(folder: Path) -> Iterator[Path]:
    """Files named .dcm or .dicom, and files without a suffix that begin as DICOM does; sorted, no links
    followed.
    """
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            if path.is_symlink() or name == "DICOMDIR":
                continue
            if path.suffix.lower() in (".dcm", ".dicom") or (
                not path.suffix.strip(".0123456789") and _has_preamble(path)
            ):
                yield path


def _has_preamble(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _read_dataset(path: Path, **options) -> Dataset:
    try:
        return pydicom.dcmread(path, **options)
    except InvalidDicomError as error:
        raise BadSample("not a DICOM file; export it again") from error
    except (
        Exception
    ) as error:  # pydicom raises nearly any kind on a damaged file, and its text may quote the file's
        raise BadSample("a damaged DICOM file; export it again") from error


def _record(path: Path, name: str, keyword: str | None, row: Row | None, of_row: dict[str, str]) -> Record:
    """Identity and checks from the header; `of_row` are the row's labels."""
    tags = [*_IMAGE_FIELDS, *ALLOWED, *([keyword] if keyword else [])]
    data = _read_dataset(path, stop_before_pixels=True, specific_tags=tags)
    height, width = _number(data, "Rows"), _number(data, "Columns")
    if not height or not width:
        raise BadSample("holds no image; remove it from the folder")
    check_pixels(height, width)
    if (frames := _number(data, "NumberOfFrames") or 1) > 1:
        raise BadSample(f"holds {frames} frames; only single images are taken: save one frame a file")
    patient = _text(data, keyword) if keyword else row.patient if row else ""
    if not patient:
        raise BadSample(f"has no {keyword}; name another tag with --split-by")
    labels = of_row | allowed_fields(data)
    report = row.report if row else caption(labels)
    burned = (
        ("burned-in text (BurnedInAnnotation is YES)",)
        if _text(data, "BurnedInAnnotation").upper() == "YES"
        else ()
    )
    mark = stamp(path.stat().st_size, report, labels)
    return Record(
        name, patient, row.where if row else name, mark, partial(_read, path, report, labels, burned)
    )


def _text(data: Dataset, keyword: str) -> str:
    try:
        value = data.get(keyword)
        return "" if value is None else str(value).strip()
    except Exception as error:  # see _read_dataset
        raise BadSample(f"its {keyword} is damaged; export it again") from error


def _number(data: Dataset, keyword: str) -> int:
    text = _text(data, keyword)
    return int(text) if text.isdecimal() else 0


def allowed_fields(data: Dataset) -> dict[str, str]:
    """The values of ALLOWED's fields that are known codes."""
    values = {keyword: _text(data, keyword).upper() for keyword in ALLOWED}
    return {keyword: value for keyword, value in values.items() if value in ALLOWED[keyword]}


def caption(fields: dict[str, str]) -> str:
    """Such as 'a frontal chest x-ray', from allowed fields alone."""
    modality = fields.get("Modality", "")
    name = _NAMES.get(modality) or ("x-ray" if modality in _X_RAY else "medical image")
    part = fields.get("BodyPartExamined", "")
    words = [_VIEWS.get(fields.get("ViewPosition", ""), ""), _PARTS.get(part, part.lower()), name]
    text = " ".join(word for word in words if word)
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _read(path: Path, report: str, labels: dict[str, str], warnings: tuple[str, ...]) -> Content:
    return Content(to_image(_read_dataset(path)), report, labels, warnings=warnings)


def to_image(data: Dataset) -> np.ndarray:
    """What a viewer shows, as uint8: modality LUT, then VOI LUT or the first window, then polarity (PS3.4
    N.2.1).

    Without a usable window the range comes from the values (`to_8bit`). Raises BadSample where pixels cannot
    be decoded.
    """
    syntax = data.file_meta.get("TransferSyntaxUID") if hasattr(data, "file_meta") else None
    if syntax is not None and syntax.is_compressed and not get_decoder(syntax).is_available:
        raise BadSample(
            f"compressed as {syntax.name}, which nothing here decodes; decompress it first, such as with "
            "gdcmconv --raw"
        )
    try:
        values = pixel_array(data)
        if data.PhotometricInterpretation == "PALETTE COLOR":
            values = apply_color_lut(values, data)
        if values.ndim == 3:
            return values if values.dtype == np.uint8 else to_8bit(values)
        image = _shown(apply_modality_lut(values, data), data)
        return 255 - image if data.PhotometricInterpretation == "MONOCHROME1" else image
    except BadSample:
        raise
    except Exception as error:  # see _read_dataset
        raise BadSample(
            f"its pixels cannot be decoded ({type(error).__name__}): damaged or incomplete; export it again"
        ) from error


def _shown(values: np.ndarray, data: Dataset) -> np.ndarray:
    """Modality values to uint8 by the VOI LUT, the first window, or the range of the values."""
    lut = data.get("VOILUTSequence")
    if lut and lut[0].get("LUTDescriptor") and lut[0].get("LUTData") is not None:
        entries, first, bits = lut[0].LUTDescriptor
        if bits == 8 and entries != 256:  # pydicom would compute the places in 8 bits too
            lut[0].LUTDescriptor = [entries, first, 16]
        places = np.arange(first, first + (entries or 2**16))
        whole = apply_voi_lut(places, data)
        within = np.rint(values).clip(places[0], places[-1]).astype(np.int32)
        return scale(apply_voi_lut(within, data), float(whole.min()), float(whole.max()))
    if data.get("WindowCenter") is not None and data.get("WindowWidth") is not None:
        try:
            with np.errstate(over="ignore"):  # far ends of a sigmoid
                low, high = sorted(apply_voi_lut(np.array([-1e12, 1e12]), data))
                return scale(apply_voi_lut(values, data), float(low), float(high))
        except ValueError:
            pass  # a width of 0 or an unknown function: as without a window
    return to_8bit(values)
