"""DICOM as pydicom writes it: pixels as a viewer shows them, and nothing that says who the patient is."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEGLosslessSV1, RLELossless, generate_uid

from medsd_ray.data.prepare import prepare
from medsd_ray.data.pseudonyms import KEY_VARIABLE
from medsd_ray.data.shards import iter_samples
from medsd_ray.data.sources.dicom import caption, scan, to_image
from medsd_ray.data.sources.source import BadSample
from medsd_ray.errors import InputError

RAMP = np.tile(np.arange(256, dtype=np.uint16) * 16, (64, 1))  # 12 bits
EIGHT = np.tile(np.arange(256), (64, 1))  # the same, as 8 bits


def dicom(pixels: np.ndarray = RAMP, **tags: Any) -> Dataset:
    """An image of stored values `pixels`; `tags` add to it or replace what it has."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.PatientID, data.Modality = "P1", "DX"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape[:2]
    data.BitsAllocated = pixels.dtype.itemsize * 8
    data.BitsStored, data.HighBit = (12, 11) if pixels.dtype.itemsize == 2 else (8, 7)
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    return data


def save(data: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def shown(data: Dataset, tmp_path: Path) -> np.ndarray:
    return to_image(pydicom.dcmread(save(data, tmp_path / "one.dcm"))).astype(int)


def test_without_a_window_the_range_comes_from_the_values(tmp_path: Path):
    assert np.abs(shown(dicom(), tmp_path) - EIGHT).max() <= 3


def test_monochrome1_is_inverted(tmp_path: Path):
    one = shown(dicom(PhotometricInterpretation="MONOCHROME1"), tmp_path)
    np.testing.assert_array_equal(one, 255 - shown(dicom(), tmp_path))


def linear(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1, for an output from 0 to 255."""
    inner = ((values - (center - 0.5)) / (width - 1) + 0.5) * 255
    return np.where(
        values <= center - 0.5 - (width - 1) / 2,
        0,
        np.where(values > center - 0.5 + (width - 1) / 2, 255, inner),
    )


def test_the_first_window_counts_after_rescaling(tmp_path: Path):
    window = {"WindowCenter": [40, 0], "WindowWidth": [400, 80]}
    image = shown(dicom(RescaleSlope=2, RescaleIntercept=-1024, **window), tmp_path)
    assert np.abs(image - linear(RAMP * 2.0 - 1024, 40, 400)).max() <= 1
    assert image.min() == 0 and image.max() == 255


def test_signed_values(tmp_path: Path):
    values = RAMP.astype(np.int16) - 2048
    image = shown(dicom(values, WindowCenter=0, WindowWidth=1000), tmp_path)
    assert np.abs(image - linear(values, 0, 1000)).max() <= 1


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_other_window_functions(tmp_path: Path, function: str):
    image = shown(dicom(WindowCenter=2048, WindowWidth=1024, VOILUTFunction=function), tmp_path)
    if function == "SIGMOID":  # PS3.3 C.11.2.1.3.1
        expected = 255 / (1 + np.exp(-4 * (RAMP - 2048.0) / 1024))
    else:  # PS3.3 C.11.2.1.3.2
        expected = ((RAMP - 2048.0) / 1024 + 0.5).clip(0, 1) * 255
    assert np.abs(image - expected).max() <= 1


def test_a_window_without_width_counts_for_nothing(tmp_path: Path):
    np.testing.assert_array_equal(
        shown(dicom(WindowCenter=5, WindowWidth=0), tmp_path), shown(dicom(), tmp_path)
    )


@pytest.mark.parametrize(("bits", "rescaled"), [(16, False), (8, False), (12, True)])
def test_a_voi_lut_goes_before_a_window(tmp_path: Path, bits: int, rescaled: bool):
    """Its entries are the square of the value, as many as there are values, which 8-bit arithmetic cannot
    number.
    """
    top = 2**bits - 1
    curve = np.rint((np.arange(4096) / 4095) ** 2 * top).astype(np.uint16)
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [4096, 0, bits], curve.tolist()
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    tags = {"RescaleSlope": 1, "RescaleIntercept": 0} if rescaled else {}
    image = shown(dicom(VOILUTSequence=[item], WindowCenter=1, WindowWidth=2, **tags), tmp_path)
    assert np.abs(image - (RAMP / 4095.0) ** 2 * 255).max() <= 1.5


def test_a_modality_lut(tmp_path: Path):
    item = Dataset()
    item.LUTDescriptor, item.LUTData, item.ModalityLUTType = [4096, 0, 16], list(range(40950, -10, -10)), "US"
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    assert np.abs(shown(dicom(ModalityLUTSequence=[item]), tmp_path) - (255 - EIGHT)).max() <= 3


def test_color_and_compression(tmp_path: Path):
    rgb = np.stack([EIGHT, 255 - EIGHT, EIGHT // 2], -1).astype(np.uint8)
    data = dicom(rgb, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    np.testing.assert_array_equal(shown(data, tmp_path), rgb)
    packed = dicom()
    packed.compress(RLELossless)
    np.testing.assert_array_equal(shown(packed, tmp_path), shown(dicom(), tmp_path))


def test_a_compression_that_nothing_here_decodes_is_named(tmp_path: Path):
    data = dicom()
    data.compress(RLELossless)
    data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    with pytest.raises(BadSample, match=r"JPEG Lossless.* decompress it first") as caught:
        shown(data, tmp_path)
    assert "\n" not in str(caught.value)


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
    found = scan(str(tmp_path), "patient_id")
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
    prepare(str(folder), str(out), kind="dicom", size=64, splits="0.5,0.25,0.25")

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
    found = scan(str(tmp_path), "who")
    assert [(record.name, record.patient) for record in found.records] == [("a.dcm", "someone")]
    assert found.problems == ["metadata.csv line 3: c.dcm: there is no such file; add it or drop the row"]
    assert found.notes == ["1 DICOM files are left out: metadata.csv has no row for them"]


def test_the_patient_tag_can_be_chosen(tmp_path: Path):
    save(dicom(StudyID="S7"), tmp_path / "a.dcm")
    assert [record.patient for record in scan(str(tmp_path), "StudyID").records] == ["S7"]
    with pytest.raises(InputError, match="'Nonsense' is no DICOM keyword"):
        scan(str(tmp_path), "Nonsense")
