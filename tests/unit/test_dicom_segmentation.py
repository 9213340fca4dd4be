"""A mask of a DICOM image as a SEG object: beside its image, in its place, and nothing else of its header."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from dicoms import dicom, save
from pydicom.uid import ComputedRadiographyImageStorage, generate_uid

from medsd_ray.data.sources.source import BadSample
from medsd_ray.generation.dicom_segmentation import SegmentationWriter
from medsd_ray.models.networks.task_run import TaskRun
from medsd_ray.spec.tasks import Network, Segmenter
from medsd_ray.storage import FolderStorage

STUDY: dict[str, Any] = {
    "StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "PatientName": "Doe^Jane",
    "InstitutionName": "Hospital of X", "StudyDate": "20200101",
}  # fmt: skip
CT: dict[str, Any] = STUDY | {
    "FrameOfReferenceUID": generate_uid(), "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
    "ImagePositionPatient": [-5, 3, 7], "PixelSpacing": [0.7, 0.5], "SliceThickness": 2,
}  # fmt: skip
XRAY: dict[str, Any] = STUDY | {"SOPClassUID": ComputedRadiographyImageStorage}
CLASSES = ("left lung", "a class with a long name, such as radiologists give")
MASK = np.zeros((10, 12), np.uint8)
MASK[2:5, 3:9], MASK[7, 1] = 1, 2


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SegmentationWriter:
    monkeypatch.setattr(TaskRun, "fingerprint", "f" * 64)
    settings = Segmenter(mask="lungs", network=Network(library="monai", name="UNet"))
    return SegmentationWriter(TaskRun(FolderStorage(tmp_path), {}, settings, CLASSES, 8, "crop"))


def image(folder: Path, tags: dict[str, Any], name: str = "x.dcm") -> Path:
    return save(dicom(np.zeros(MASK.shape, np.uint8), **tags), folder / name)


def read(data: bytes) -> Any:
    return highdicom.seg.segread(io.BytesIO(data))


@pytest.mark.parametrize("mask", [MASK, MASK * 0], ids=["drawn", "empty"])
@pytest.mark.parametrize("tags", [XRAY, CT], ids=["x-ray", "ct"])
def test_a_mask_lies_over_its_image(tmp_path: Path, writer: SegmentationWriter, tags: dict, mask: np.ndarray):
    source = dicom(np.zeros(MASK.shape, np.uint8), **tags)
    found = read(writer.encode(save(source, tmp_path / "x.dcm"), mask))
    pixels = found.get_pixels_by_source_instance([source.SOPInstanceUID], combine_segments=True)
    np.testing.assert_array_equal(pixels, mask[None])
    assert [found.get_segment_description(number).segment_label for number in (1, 2)] == list(CLASSES)
    assert found.StudyInstanceUID == source.StudyInstanceUID and found.PatientName == "Doe^Jane"
    assert found.SOPInstanceUID != source.SOPInstanceUID
    assert found.SeriesInstanceUID != source.SeriesInstanceUID
    assert "InstitutionName" not in found and found.ContentDescription.startswith("For research only")


def test_a_slice_of_a_volume_stays_in_its_place(tmp_path: Path, writer: SegmentationWriter):
    found = read(writer.encode(image(tmp_path, CT), MASK))
    assert found.FrameOfReferenceUID == CT["FrameOfReferenceUID"]
    # PS3.3 C.7.6.2.1.1: rows go along -z by 0.7 mm, columns along y by 0.5 mm, from the first pixel.
    place = found.get_volume().affine @ [0, 2, 3, 1]
    np.testing.assert_allclose(place[:3], [-5, 3 + 3 * 0.5, 7 - 2 * 0.7])


def test_masks_of_a_series_are_a_series(tmp_path: Path, writer: SegmentationWriter):
    other = XRAY | {"SeriesInstanceUID": generate_uid()}
    paths = [image(tmp_path, XRAY, "1.dcm"), image(tmp_path, XRAY, "2.dcm"), image(tmp_path, other, "3.dcm")]
    first, second, third = (read(writer.encode(path, MASK)) for path in paths)
    assert first.SeriesInstanceUID == second.SeriesInstanceUID != third.SeriesInstanceUID
    assert [one.InstanceNumber for one in (first, second, third)] == [1, 2, 1]
    assert len({one.SOPInstanceUID for one in (first, second, third)}) == 3


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({"SOPClassUID": ComputedRadiographyImageStorage}, "no StudyInstanceUID"),
        (STUDY, "FrameOfReferenceUID"),
        (STUDY | {"SOPClassUID": "1.2.3"}, "does not say what a segmentation needs"),
    ],
)
def test_what_nothing_can_refer_to_is_said_without_its_values(
    tmp_path: Path, writer: SegmentationWriter, tags: dict, why: str
):
    with pytest.raises(BadSample, match=why) as refused:
        writer.encode(image(tmp_path, tags), MASK)
    assert "Jane" not in str(refused.value)
