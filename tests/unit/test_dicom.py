"""DICOM as pydicom writes it: pixels as a viewer shows them, and nothing that says who the patient is."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicoms import RAMP, dicom, save
from PIL import Image

from medsd_ray.data.prepare import prepare
from medsd_ray.data.pseudonyms import KEY_VARIABLE
from medsd_ray.data.shards import iter_samples
from medsd_ray.data.sources.dicom import caption, scan
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import BadSample
from medsd_ray.errors import InputError


def test_each_bad_file_has_its_line_and_the_rest_is_kept(tmp_path: Path):
    whole = save(dicom(), tmp_path / "good.dcm").read_bytes()
    save(dicom(), tmp_path / "without suffix")
    (tmp_path / "text.dcm").write_bytes(b"a letter")
    (tmp_path / "readme.txt").write_text("not looked at")
    save(dicom(np.tile(RAMP, (2, 1)), Rows=64, NumberOfFrames=2), tmp_path / "frames.dcm")
    save(dicom(Rows=60000, Columns=60000), tmp_path / "huge.dcm")
    nameless, report = dicom(), dicom()
    del nameless.PatientID
    save(nameless, tmp_path / "nameless.dcm")
    del report.Rows, report.PixelData
    save(report, tmp_path / "report.dcm")
    found = scan(SourceRequest(str(tmp_path)))
    assert [record.name for record in found.records] == ["good.dcm", "without suffix"]
    said = ["2 frames", "60000x60000 pixels", "no PatientID", "holds no image", "not a DICOM file"]
    names = ["frames", "huge", "nameless", "report", "text"]
    for name, words, problem in zip(names, said, found.problems, strict=True):
        assert problem.startswith(f"{name}.dcm: ") and words in problem and "\n" not in problem
    (tmp_path / "good.dcm").write_bytes(whole[:-5000])
    with pytest.raises(BadSample, match="damaged or incomplete"):
        found.records[0].read()


def test_captions_from_allowed_fields():
    fields = {"Modality": "DX", "ViewPosition": "PA", "BodyPartExamined": "CHEST"}
    assert caption(fields) == "a frontal chest x-ray"
    assert caption(fields | {"ViewPosition": "LL"}) == "a lateral chest x-ray"
    assert caption({"Modality": "US", "BodyPartExamined": "ABDOMEN"}) == "an abdomen ultrasound image"
    assert caption({}) == "a medical image"


IDENTITY = {
    "PatientName": "Zwingli^Huldrych",
    "PatientID": "MRN-7788123",
    "PatientBirthDate": "19480101",
    "PatientAddress": "Limmatquai 3",
    "OtherPatientIDs": "ALT-5512",
    "AccessionNumber": "ACC99812",
    "InstitutionName": "Grossmuenster Hospital",
    "ReferringPhysicianName": "Bullinger^H",
    "OperatorsName": "Jud^Leo",
    "StudyDescription": "Thorax Zwingli",
    "SeriesDescription": "Thorax Zwingli pa",
    "ImageComments": "Zwingli seen today",
    "StudyDate": "20191231",
    "StudyID": "ST-7719",
    "StationName": "ROOM-12-XR",
    "BodyPartExamined": "ZWINGLI CHEST",  # a name where a code belongs
}


def identified(path: Path, patient: int) -> Path:
    data = dicom(**IDENTITY | {"PatientID": f"MRN-7788{patient}", "PatientSex": "F", "ViewPosition": "PA"})
    data.BurnedInAnnotation = "YES"
    block = data.private_block(0x0011, "ACME SECRET", create=True)
    block.add_new(1, "LO", "Private Zwingli")
    return save(data, path)


@pytest.mark.parametrize("listed", [False, True])
def test_nothing_of_the_identity_reaches_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], listed: bool
):
    monkeypatch.setenv(KEY_VARIABLE, "a key for this test")
    folder, out = tmp_path / "in", tmp_path / "out"
    names = [f"Zwingli_MRN-7788{patient}/{image}.dcm" for patient in range(4) for image in range(2)]
    for index, name in enumerate(names):
        identified(folder / name, index // 2)
    if listed:
        with (folder / "metadata.csv").open("w", newline="") as file:
            csv.writer(file).writerows(
                [["image", "report", "finding"], *([name, "Clear lungs.", "none"] for name in names)]
            )
    prepare(SourceRequest(str(folder), "dicom", size=64), str(out), splits="0.5,0.25,0.25")

    secrets = {part for value in IDENTITY.values() for part in value.replace("^", " ").split()} - {
        "CHEST",
        "3",
        "H",
        "pa",
        "Thorax",
    }
    secrets |= {"MRN-7788", "Private", "ACME", "SECRET", "Leo", "today", str(folder)}
    secrets |= {str(pydicom.dcmread(folder / name).SOPInstanceUID) for name in names} | {"seen"}
    files = [path for path in out.rglob("*") if path.is_file()]
    everything = b"\n".join(
        [p.read_bytes() for p in files] + [str(p.relative_to(out)).encode() for p in files]
    ).lower()
    for secret in secrets:
        assert secret.lower().encode() not in everything, secret

    samples = [
        sample for split in ("train", "validation", "test") for sample in iter_samples(str(out), split)
    ]
    assert len(samples) == 8 and len({sample.patient for sample in samples}) == 4
    known = {"Modality": "DX", "ViewPosition": "PA", "PatientSex": "F"}
    for sample in samples:
        assert sample.labels == (known | {"finding": "none"} if listed else known)
        assert sample.caption == ("Clear lungs." if listed else "a frontal x-ray")
    said = capsys.readouterr().err
    assert "8 samples have burned-in text" in said
    assert not any(secret in said for secret in secrets)


def test_the_table_decides_what_is_taken(tmp_path: Path):
    save(dicom(), tmp_path / "a.dcm")
    save(dicom(), tmp_path / "b.dcm")
    (tmp_path / "metadata.csv").write_text(
        "image,report,who\na.dcm,Clear lungs.,someone\nc.dcm,Gone.,someone\n"
    )
    found = scan(SourceRequest(str(tmp_path), patient_column="who"))
    assert [(record.name, record.patient) for record in found.records] == [("a.dcm", "someone")]
    assert found.problems == ["metadata.csv line 3: c.dcm: there is no such file; add it or drop the row"]
    assert found.notes == ["1 DICOM files are left out: metadata.csv has no row for them"]


def test_the_patient_tag_can_be_chosen(tmp_path: Path):
    save(dicom(StudyID="S7"), tmp_path / "a.dcm")
    assert [
        record.patient for record in scan(SourceRequest(str(tmp_path), patient_column="StudyID")).records
    ] == ["S7"]
    with pytest.raises(InputError, match="'Nonsense' is no DICOM keyword"):
        scan(SourceRequest(str(tmp_path), patient_column="Nonsense"))


def test_captions_of_a_template_know_the_header(tmp_path: Path):
    """Ages are in whole years, at most 90; what the table says counts before it."""
    ages = {"old": "097Y", "young": "030M", "none": "about 50"}
    for name, age in ages.items():
        tags = {"PatientAge": age, "PatientSex": "F", "ViewPosition": "PA", "PatientID": f"{name} P"}
        save(dicom(**tags), tmp_path / f"{name}.dcm")
    asked = SourceRequest(str(tmp_path), "dicom", caption="{age} year old {sex}. {view} {modality}.")
    found = scan(asked)
    contents = {record.patient: record.read() for record in found.records}
    assert {name.split()[0]: content.caption for name, content in contents.items()} == {
        "old": "90 year old female. frontal x-ray.",
        "young": "2 year old female. frontal x-ray.",
        "none": "frontal x-ray.",
    }
    assert [contents[f"{name} P"].labels.get("PatientAge") for name in ages] == ["90", "2", None]
    assert found.notes == ["1 captions go without '{age} year old {sex}.': a field of it is empty"]
    with pytest.raises(InputError, match=r"no field \{Age\} among age, sex.*; do you mean \{age\}\?"):
        scan(replace(asked, caption="{Age}"))
    with pytest.raises(InputError, match="names a file or the patient"):
        scan(replace(asked, caption="{PatientID}"))
    (tmp_path / "metadata.csv").write_text("image,sex,report\nold.dcm,woman,Clear.\nnone.dcm,,Clear.\n")
    found = scan(replace(asked, caption="{sex}: {report}"))
    assert [record.read().caption for record in found.records] == ["woman: Clear.", "female: Clear."]


def test_patients_of_paths_masks_and_boxes_go_with_dicom(tmp_path: Path):
    for patient in ("p01", "p02"):
        save(dicom(), tmp_path / f"in/{patient}/a.dcm")
    mask = np.zeros(RAMP.shape, np.uint8)
    mask[3:6, 100:120] = 255
    Image.fromarray(mask).save(tmp_path / "in/mask.png")
    asked = SourceRequest(str(tmp_path / "in"), "dicom", patient_regex=r"(p\d+)/")
    assert [record.patient for record in scan(asked).records] == ["p01", "p02"]
    with pytest.raises(InputError, match=r"no metadata\.csv here, whose columns --mask-column name"):
        scan(replace(asked, mask_columns=("mask",)))
    (tmp_path / "in/metadata.csv").write_text(
        "image,report,mask,site\np01/a.dcm,Clear.,mask.png,here\np02/a.dcm,Clear.,,\n"
    )
    (tmp_path / "boxes.csv").write_text("image,finding,x,y,w,h\np02/a.dcm,Nodule,10,2,4,5\n")
    boxes = str(tmp_path / "boxes.csv")
    found = scan(replace(asked, mask_columns=("mask",), domain_column="site", boxes=boxes))
    assert [record.domain for record in found.records] == ["here", None]
    first, second = (record.read() for record in found.records)
    np.testing.assert_array_equal(first.masks["mask"], mask)
    assert list(second.masks) == ["nodule"]
    assert second.masks["nodule"].shape == RAMP.shape and second.masks["nodule"][2:7, 10:14].all()


def test_nothing_of_the_identity_comes_with_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Each is a sample of the same patient; what is odd is said with the file's name, and stored without."""
    monkeypatch.setenv(KEY_VARIABLE, "a key for this test")
    for patient in range(4):
        tags = IDENTITY | {"PatientID": f"MRN-7788{patient}", "NumberOfFrames": 3, "Rows": 64}
        frames = np.concatenate([np.roll(RAMP, 32 * k, 1) for k in range(3)])
        data = dicom(frames, WindowCenter="NaN", WindowWidth=100, **tags)
        save(data, tmp_path / f"in/{patient}-Zwingli.dcm")
    out = tmp_path / "out"
    asked = SourceRequest(str(tmp_path / "in"), "dicom", size=16, frames="all")
    prepare(asked, str(out), splits="0.5,0.25,0.25")
    samples = [s for split in ("train", "validation", "test") for s in iter_samples(str(out), split)]
    assert len({s.key for s in samples}) == 12 and len({s.patient for s in samples}) == 4
    assert len({s.image.tobytes() for s in samples if s.image is not None}) == 3
    everything = b"\n".join(p.read_bytes() for p in out.rglob("*") if p.is_file())
    for value in ("Zwingli", "MRN-7788", "Grossmuenster", "ACC99812", "19480101", "dcm"):
        assert value.lower().encode() not in everything.lower()
    said = capsys.readouterr().err
    assert "2-Zwingli.dcm, frame 3: a window or LUT that cannot be used" in said
    assert "12 samples have a window or LUT that cannot be used" in said


@pytest.mark.parametrize("asked", [{"image_column": "age"}, {"mask_columns": ("view",)}])
def test_headers_name_no_files(tmp_path: Path, asked: dict):
    save(dicom(), tmp_path / "a.dcm")
    (tmp_path / "metadata.csv").write_text("image,report\na.dcm,Text.\n")
    with pytest.raises(InputError, match=r"no column '(age|view)' among"):
        scan(SourceRequest(str(tmp_path), "dicom", **asked))
