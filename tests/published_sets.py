"""Small sets laid out as published ones are, file by file and column by column, with drawn images; and what
is read of them.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from medsd_ray.data.sources.findings import CHEXPERT
from medsd_ray.data.sources.kinds import open_source
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import Source


def drawn(height: int = 24, width: int = 20, bits: int = 8) -> np.ndarray:
    """A ramp from left to right."""
    ramp = np.linspace(0, 2**bits - 1, width)
    return np.tile(ramp, (height, 1)).astype(np.uint8 if bits == 8 else np.uint16)


def save(path: Path, image: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn() if image is None else image).save(path)


def table(rows: Sequence[Sequence[object]], **more) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, **more).writerows(rows)
    return buffer.getvalue()


def write(path: Path, text: str) -> None:
    """The text, gzipped where the file's name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


# MIMIC-CXR-JPG

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)
 
 INDICATION:  ___ year old woman with cough
 
 FINDINGS: 
 
 The lungs are clear.  No effusion
 is seen.
 
 IMPRESSION: 
 
 No acute cardiopulmonary process.
"""
NO_IMPRESSION = REPORT.partition(" IMPRESSION")[0]
NO_SECTION = """                                 FINAL REPORT
 PORTABLE RADIOGRAPH OF ___

 COMPARISON:  ___.
 
 Small left effusion.
"""
EMPTY_REPORT = "                                 FINAL REPORT\n ADDENDUM:  \n"
METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,"
    "StudyTime,ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,"
    "PatientOrientationCodeSequence_CodeMeaning\r\n"
)
MIMIC_STUDIES = {  # study -> patient, views, split, report, cells of CheXpert
    "59000001": ("10900001", ("PA", "LATERAL"), "train", REPORT, {"No Finding": "1.0"}),
    "59000002": ("10900001", ("PA",), "train", NO_IMPRESSION, {"Edema": "-1.0", "Pneumonia": "0.0"}),
    "59000003": ("10900002", ("AP", "LL"), "validate", NO_SECTION, {"Pleural Effusion": "1.0", "Edema": "1"}),
    "59000004": ("11900003", ("",), "test", EMPTY_REPORT, {}),
}


def dicom_id(study: str, number: int) -> str:
    return "-".join(f"{int(study) + 7919 * number + part:08x}" for part in range(5))


def mimic_cxr(folder: Path, *, gz: bool = True, labeller: str = "chexpert", reports: str = "folder") -> Path:
    """`reports`: `folder` as the zip unpacks, `zip`, or `none`."""
    suffix = ".csv.gz" if gz else ".csv"
    images = [
        (study, number, view, *MIMIC_STUDIES[study])
        for study in MIMIC_STUDIES
        for number, view in enumerate(MIMIC_STUDIES[study][1])
    ]
    for study, number, _, patient, *_ in images:
        save(folder / f"files/p{patient[:2]}/p{patient}/s{study}/{dicom_id(study, number)}.jpg")
    metadata = [
        [dicom_id(s, n), patient, s, "CHEST (PA AND LAT)", view, 3056, 2544, 21800506, 2130.5, "", view, ""]
        for s, n, view, patient, *_ in images
    ]
    write(folder / f"mimic-cxr-2.0.0-metadata{suffix}", METADATA + table(metadata))
    splits = [[dicom_id(s, n), s, patient, split] for s, n, _, patient, _, split, *_ in images]
    write(
        folder / f"mimic-cxr-2.0.0-split{suffix}",
        table([["dicom_id", "study_id", "subject_id", "split"], *splits]),
    )
    findings = sorted(CHEXPERT)
    labels = [
        [patient, study, *(cells.get(name, "") for name in findings)]
        for study, (patient, _, _, _, cells) in MIMIC_STUDIES.items()
    ]
    write(
        folder / f"mimic-cxr-2.0.0-{labeller}{suffix}",
        table([["subject_id", "study_id", *findings], *labels]),
    )
    texts = {
        f"files/p{patient[:2]}/p{patient}/s{study}.txt": text
        for study, (patient, _, _, text, _) in MIMIC_STUDIES.items()
    }
    if reports == "zip":
        with zipfile.ZipFile(folder / "mimic-cxr-reports.zip", "w") as archive:
            for name, text in texts.items():
                archive.writestr(name, text)
    elif reports == "folder":
        for name, text in texts.items():
            write(folder / "mimic-cxr-reports" / name, text)
    return folder


# CheXpert

CHEXPERT_HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT]
CHEXPERT_ROWS = [  # patient, study and view, sex, age, side, projection, cells
    (
        "train/patient00001/study1/view1_frontal.jpg",
        "Female",
        68,
        "Frontal",
        "AP",
        "No Finding=1 Support Devices=1",
    ),
    (
        "train/patient00002/study1/view1_frontal.jpg",
        "Male",
        87,
        "Frontal",
        "PA",
        "Cardiomegaly=-1 Fracture=1",
    ),
    ("train/patient00002/study1/view2_lateral.jpg", "Male", 87, "Lateral", "", "Cardiomegaly=-1 Fracture=1"),
    (
        "train/patient00003/study2/view1_frontal.jpg",
        "Unknown",
        0,
        "Frontal",
        "AP",
        "Pleural Effusion=1 Edema=0",
    ),
    ("valid/patient64541/study1/view1_frontal.jpg", "Female", 93, "Frontal", "AP", "Edema=0 Pneumonia=0"),
]
PLUS_HEADER = (
    "path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,patient_report_date_order,report,"
    "section_narrative,section_clinical_history,section_history,section_comparison,section_technique,"
    "section_procedure_comments,section_findings,section_impression,section_end_of_impression,"
    "section_summary,section_accession_number,age,sex,race,ethnicity,interpreter_needed,insurance_type,"
    "recent_bmi,deceased,split\r\n"
)
PLUS_REPORTS = {
    "patient00001": ("", "1. No acute\n disease."),
    "patient00002": ("Healing rib fracture.", ""),
    "patient64541": ("Clear lungs.", "Normal chest."),
}


def chexpert(folder: Path, *, small: bool = True, plus: bool = False) -> Path:
    """SOURCE is what is returned: the folder that the archive unpacks to."""
    root = folder / ("CheXpert-v1.0-small" if small else "CheXpert-v1.0")
    for split in ("train", "valid"):
        rows = [
            [f"{root.name}/{path}", sex, age, side, projection, *_cells(cells)]
            for path, sex, age, side, projection, cells in CHEXPERT_ROWS
            if path.startswith(split)
        ]
        write(root / f"{split}.csv", table([CHEXPERT_HEADER, *rows], lineterminator="\n"))
    for path, *_ in CHEXPERT_ROWS:
        save(root / path)
    if plus:
        write(root / "df_chexpert_plus_240401.csv", _plus_table())
    return root


def chexpert_in_batches(folder: Path) -> Path:
    """The full-size set as it is downloaded: the tables in the first batch, patients in the others."""
    root = chexpert(folder, small=False)
    first = folder / "CheXpert-v1.0 batch 1 (validate & csv)"
    first.mkdir()
    for name in ("train.csv", "valid.csv", "valid"):
        (root / name).rename(first / name)
    for number, patient in enumerate(sorted((root / "train").iterdir())):
        batch = folder / f"CheXpert-v1.0 batch {2 + number} (train {1 + number})"
        batch.mkdir()
        patient.rename(batch / patient.name)
    (root / "train").rmdir()
    root.rmdir()
    return folder


def _cells(cells: str) -> list[str]:
    said = dict(re.findall(r"(\w[\w ]*?)=(-?1|0)", cells))
    return [f"{said[name]}.0" if name in said else "" for name in CHEXPERT]


def chexpert_plus(folder: Path) -> Path:
    """CheXpert Plus alone: PNGs, though its table calls them JPEGs."""
    for path, *_ in CHEXPERT_ROWS:
        save(folder / "PNG" / Path(path).with_suffix(".png"))
    write(folder / "df_chexpert_plus_240401.csv", _plus_table())
    return folder


def _plus_table() -> str:
    rows = []
    for path, sex, age, side, projection, _ in CHEXPERT_ROWS:
        patient = path.split("/")[1]
        findings, impression = PLUS_REPORTS.get(patient, ("", ""))
        known = {
            "path_to_image": path, "path_to_dcm": path.replace(".jpg", ".dcm"), "frontal_lateral": side,
            "ap_pa": projection, "deid_patient_id": patient, "section_findings": findings,
            "section_impression": impression, "age": f"{age}.0", "sex": sex, "split": path.split("/")[0],
        }  # fmt: skip
        rows.append([known.get(name, "") for name in PLUS_HEADER.strip().split(",")])
    return PLUS_HEADER + table(rows)


# NIH ChestX-ray14

NIH_ROWS = [  # image, findings, follow-up, patient, age, sex, view
    ("00090001_000.png", "Cardiomegaly", 0, 90001, 58, "M", "PA"),
    ("00090001_001.png", "Cardiomegaly|Pleural_Thickening", 1, 90001, 58, "M", "PA"),
    ("00090002_000.png", "No Finding", 0, 90002, 81, "M", "PA"),
    ("00090003_000.png", "Hernia", 0, 90003, 95, "F", "PA"),
    ("00090004_000.png", "Effusion|Pneumonia", 0, 90004, 412, "M", "AP"),
    ("00090005_008.png", "Atelectasis|Infiltration", 8, 90005, 69, "F", "AP"),
]
NIH_BOXES = [
    ("00090005_008.png", "Atelectasis", 256.0, 512.0, 128.0, 64.0),
    ("00090005_008.png", "Infiltrate", 512.084745762712, 128.0, 256.5, 255.5),
    ("00090001_000.png", "Cardiomegaly", 0.0, 0.0, 1024.0, 512.0),
]  # x, y, w, h in pixels of 1024


def nih(folder: Path, *, version: str = "_v2020", boxes: bool = True, lists: bool = True) -> Path:
    """The table as published: the names of its last columns have commas, and that of 2017 ends its lines in
    one.
    """
    last = "" if version else ","
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        f"OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]{last}\n"
    )
    rows = [f"{','.join(map(str, row))},2682,2749,0.14300000000000002,0.143{last}\n" for row in NIH_ROWS]
    write(folder / f"Data_Entry_2017{version}.csv", header + "".join(rows))
    for i, row in enumerate(NIH_ROWS):
        save(folder / f"images_{1 + i // 3:03d}/images/{row[0]}", drawn(64, 64))
    if boxes:
        lines = [f"{','.join(map(str, box))},,,\n" for box in NIH_BOXES]
        write(folder / "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,\n" + "".join(lines))
    if lists:
        names = [row[0] for row in NIH_ROWS]
        write(folder / "train_val_list.txt", "\n".join(names[:4]))
        write(folder / "test_list.txt", "\n".join(names[4:]) + "\n")
    return folder


# PadChest

PADCHEST_HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,"
    "Projection,MethodProjection,Pediatric,Modality_DICOM,Manufacturer_DICOM,PhotometricInterpretation_DICOM,"
    "PixelRepresentation_DICOM,PixelAspectRatio_DICOM,SpatialResolution_DICOM,BitsStored_DICOM,"
    "WindowCenter_DICOM,WindowWidth_DICOM,Rows_DICOM,Columns_DICOM,XRayTubeCurrent_DICOM,Exposure_DICOM,"
    "ExposureInuAs_DICOM,ExposureTime,RelativeXRayExposure_DICOM,ReportID,Report,MethodLabel,Labels,"
    "Localizations,LabelsLocalizationsBySentence,labelCUIS,LocalizationsCUIS\n"
)
PADCHEST_ROWS = [  # image, folder, study date, patient, birth, sex, projection, photometric, report, labels
    ("90000000000000000000000000000000000001_k6ga29.png", 0, 20140915, "900000000000000000000000000000000001",
     "1930.0", "F", "PA", "MONOCHROME2", "sin hallazg .", "['normal']"),
    ("90000000000000000000000000000000000002_fzis7b.png", 0, 20150914, "900000000000000000000000000000000002",
     "1919.0", "M", "L", "MONOCHROME2", "cambi cronic . sign fibrosis",
     "['pulmonary fibrosis', ' chronic changes', 'pulmonary fibrosis', '']"),
    ("90000000000000000000000000000000000003_3k951n.png", 1, 20150831, "900000000000000000000000000000000003",
     "", "", "AP_horizontal", "MONOCHROME1", "", "[]"),
    ("900000000000000000000000000000000000000000004_00-163-058.png", 46, 20110415,
     "900000000000000000000000000000000004",
     "1945.0", "M", "PA", "MONOCHROME2", "estudi limit .", "['exclude']"),
    ("90000000000000000000000000000000000005_pe3hsj.png", 1, 20150723, "900000000000000000000000000000000005",
     "1953.0", "M", "UNK", "MONOCHROME2", 'pinz "crest" , sin cambi', ""),
]  # fmt: skip


def padchest(folder: Path, *, flat: bool = False, gz: bool = False) -> Path:
    rows = []
    for number, row in enumerate(PADCHEST_ROWS):
        image, directory, date, patient, birth, sex, projection, photometric, report, labels = row
        known = {
            "": number, "ImageID": image, "ImageDir": directory, "StudyDate_DICOM": date,
            "StudyID": image[:30], "PatientID": patient, "PatientBirth": birth, "PatientSex_DICOM": sex,
            "ViewPosition_DICOM": "POSTEROANTERIOR", "Projection": projection, "Pediatric": "No",
            "PhotometricInterpretation_DICOM": photometric, "ReportID": 4765777.0 + number, "Report": report,
            "MethodLabel": "Physician", "Labels": labels, "Localizations": "[]",
            # As NumPy prints an array: over several lines.
            "labelCUIS": "['C0034069' 'C0742362' 'C0115991'\n 'C0332558']",
        }  # fmt: skip
        rows.append([known.get(name, "") for name in PADCHEST_HEADER.strip().split(",")])
        save(folder / ("images-224" if flat else str(directory)) / image, drawn(30, 26, bits=16))
    write(
        folder / f"PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv{'.gz' if gz else ''}",
        PADCHEST_HEADER + table(rows, lineterminator="\n"),
    )
    return folder


# What is read of them


def read(kind: str, root: Path, **more) -> Source:
    """The source, as `prepare` opens it."""
    return open_source(SourceRequest(str(root), kind=kind, **more))


def captions(source: Source) -> list[str]:
    """Of all its samples, each of which can be read."""
    assert source.problems == []
    return [record.read().caption for record in source.records]


def labels(source: Source, number: int = 0) -> dict[str, object]:
    """Of a record, without findings that are not there."""
    return {k: v for k, v in source.records[number].read().labels.items() if v != "negative"}
