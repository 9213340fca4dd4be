"""MIMIC-CXR-JPG (Johnson et al. 2019, arXiv:1901.07042) as it is published, with the reports of MIMIC-CXR.

`mimic-cxr-2.0.0-metadata.csv` has a row for each image; the images lie in
`files/p10/p10000032/s50414267/DICOM_ID.jpg`. The tables of the split and of the findings are read where they
are there, each gzipped or not. The reports are another download, a zip or the folder that it becomes.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from medsd_ray.console import ProgressLine
from medsd_ray.data.labels import LabelColumns
from medsd_ray.data.sources.captions import CaptionTemplate
from medsd_ray.data.sources.columns import Columns
from medsd_ray.data.sources.files import existing_folder
from medsd_ray.data.sources.findings import CHEXPERT, labelled
from medsd_ray.data.sources.published import (
    SPLIT_NAMES,
    check_columns,
    converted,
    existing_file,
    file_of,
    needed,
    of_captions,
    of_views,
    read_beside,
    source_of_set,
    view_of,
)
from medsd_ray.data.sources.regular import check_file
from medsd_ray.data.sources.report_sections import SECTIONS, cut
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import LONGEST_TEXT, BadSample, Source
from medsd_ray.data.sources.table import Row, Table, read_csv
from medsd_ray.errors import InputError

METADATA, SPLIT = "mimic-cxr-2.0.0-metadata.csv", "mimic-cxr-2.0.0-split.csv"
LABELS = ("mimic-cxr-2.0.0-chexpert.csv", "mimic-cxr-2.0.0-negbio.csv")
"""The findings by either labeller; CheXpert's count where both are there."""
REPORTS = ("mimic-cxr-reports", "mimic-cxr-reports.zip")
FIELDS = ["image", "patient_id", "view", "finding", "finding_names", *CHEXPERT, "split"]
"""What a row has, in a caption and as a label."""
NO_REPORT = dict.fromkeys((*SECTIONS, "report"), "")
"""What it has beside these where reports are read; `report` is the first section of these that is there."""
ReadReport = Callable[[str, str], str | None]
"""The text of the report of a patient's study; None where it is not there."""


def scan(request: SourceRequest) -> Source:
    """The images of the table. Raises InputError where the set's files or columns are not there."""
    folder = existing_folder(request.source)
    columns = Columns(caption="report", labels=LabelColumns(CHEXPERT), split="split").as_asked(request)
    named = existing_file(request.reports) if request.reports else None
    wanted = [REPORTS] if named is None and _needs_reports(columns) else []
    path, *others = needed(folder, "mimic-cxr", (METADATA,), *wanted)
    reports = named or next(iter(others), None)
    table = read_csv(path, folder)
    check_columns(table, "dicom_id", "subject_id", "study_id", "ViewPosition")
    splits = _splits(folder)
    (findings, labeller), uncertain = _findings(folder), request.uncertain or "omit"

    def convert(cells: Mapping[str, str]) -> dict[str, str]:
        patient, study, image = cells["subject_id"], cells["study_id"], cells["dicom_id"]
        return {
            "image": f"files/p{patient[:2]}/p{patient}/s{study}/{image}.jpg",
            "patient_id": patient,
            "study": study,
            "view": view_of(cells["ViewPosition"]),
            **labelled(findings.get(study, {}), uncertain),
            "split": SPLIT_NAMES.get(splits.get(image, ""), ""),
        }

    rows, notes = of_views(converted(table, "dicom_id", convert), request.views)
    notes.append(f"findings are those of {labeller}")
    if reports:
        rows = _with_reports(rows, reports)
    fields = [*FIELDS, *NO_REPORT] if reports else FIELDS
    rows, more = of_captions(rows, columns, fields)
    notes += more
    joined = Table(table.name, table.where, fields, rows, notes)
    return source_of_set(joined, folder, columns, findings=labeller, uncertain=uncertain)


def _needs_reports(columns: Columns) -> bool:
    """Whether a caption or a label is made of the reports."""
    caption = columns.caption
    named = caption.fields if isinstance(caption, CaptionTemplate) else [caption]
    return bool({*named, *columns.labels.asked, *columns.labels.insisted} & {*NO_REPORT})


def _splits(folder: Path) -> dict[str, str]:
    """Image -> published split."""
    path = file_of(folder, SPLIT)
    rows = read_beside(path, "dicom_id", "split") if path else ()
    return {row["dicom_id"]: row["split"] for row in rows}


def _findings(folder: Path) -> tuple[dict[str, Mapping[str, str]], str]:
    """Study -> the cells of its findings, and the name of their table."""
    path = file_of(folder, *LABELS)
    if path is None:
        return {}, f"no table: neither {LABELS[0]} nor {LABELS[1]} is here, gzipped or not"
    return {row["study_id"]: row for row in read_beside(path, "study_id", *CHEXPERT)}, path.name


def _with_reports(rows: Sequence[Row | str], reports: Path) -> list[Row | str]:
    """The rows with their reports' sections; each report is read once."""
    read: dict[str, dict[str, str] | BadSample] = {}
    made: list[Row | str] = []
    with ExitStack() as opened, ProgressLine(len(rows), "images given their reports") as progress:
        text_of = _reader(reports, opened)
        for row in rows:
            progress.add()
            if isinstance(row, str):
                made.append(row)
                continue
            patient, study = row.values["patient_id"], row.values["study"]
            if study not in read:
                read[study] = _sections(text_of, patient, study)
            found = read[study]
            if isinstance(found, BadSample):
                made.append(f"{row.at(row.values['image'])}: {found}")
            else:
                made.append(Row(row.where, {**row.values, **found}))
    return made


def _sections(text_of: ReadReport, patient: str, study: str) -> dict[str, str] | BadSample:
    try:
        found = cut(text_of(patient, study) or "", study)
    except BadSample as error:
        return error
    report = next((found[name] for name in SECTIONS if name in found), "")
    return NO_REPORT | found | {"report": report}


def _reader(reports: Path, opened: ExitStack) -> ReadReport:
    """Reads reports from a zip, which `opened` closes, or a folder. Raises InputError where it is neither."""
    if reports.is_dir():
        return partial(_of_folder, reports / "files" if (reports / "files").is_dir() else reports)
    try:
        archive = opened.enter_context(zipfile.ZipFile(reports))
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{reports}: no zip of reports, and no folder ({error}); copy it again") from error
    entries = {info.filename.rpartition("/")[2]: info for info in archive.infolist()}
    return lambda _, study: _of_zip(archive, entries.get(f"s{study}.txt"))


def _of_folder(folder: Path, patient: str, study: str) -> str | None:
    path = folder / f"p{patient[:2]}" / f"p{patient}" / f"s{study}.txt"
    if not path.exists():
        return None
    check_file(folder, path)
    return _text(path.stat().st_size, path.read_bytes)


def _of_zip(archive: zipfile.ZipFile, entry: zipfile.ZipInfo | None) -> str | None:
    return _text(entry.file_size, partial(archive.read, entry)) if entry else None


def _text(size: int, read: Callable[[], bytes]) -> str:
    if size > LONGEST_TEXT:
        raise BadSample(f"its report has more than {LONGEST_TEXT:,} bytes, as none does; copy it again")
    try:
        return read().decode()
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise BadSample(f"its report cannot be read ({type(error).__name__}); copy it again") from error
