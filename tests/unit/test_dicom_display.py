"""A DICOM image as a viewer shows it: windows, LUTs, polarity, padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicoms import EIGHT, RAMP, dicom, save
from pydicom.dataset import Dataset

from medsd_ray.data.sources.dicom_display import RESCALE_IGNORED, WINDOW_IGNORED
from medsd_ray.data.sources.dicom_files import read_frame


def shown(data: Dataset, tmp_path: Path) -> np.ndarray:
    return read_frame(save(data, tmp_path / "one.dcm")).image.astype(int)


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


WINDOW = {"WindowCenter": 0, "WindowWidth": 3000}


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_a_negative_slope_leaves_low_values_black(tmp_path: Path, function: str, interpretation: str):
    common = {"VOILUTFunction": function, "PhotometricInterpretation": interpretation}
    negative = shown(dicom(RescaleSlope=-1, RescaleIntercept=2047, **WINDOW, **common), tmp_path)
    positive = shown(dicom(4095 - RAMP, RescaleSlope=1, RescaleIntercept=-2048, **WINDOW, **common), tmp_path)
    np.testing.assert_array_equal(negative, positive)
    without = shown(dicom(RescaleSlope=-1, RescaleIntercept=2047, **common), tmp_path)
    assert np.corrcoef(negative.flat, without.flat)[0, 1] > 0.9
    falls = 1 if interpretation == "MONOCHROME1" else -1
    assert np.corrcoef(negative.flat, RAMP.flat)[0, 1] * falls > 0.9


def padded(value: int) -> np.ndarray:
    pixels = RAMP // 8 + 1000
    pixels[:20] = value
    return pixels


@pytest.mark.parametrize("value", [0, 4095, 65535])
@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1256, "WindowWidth": 512}])
def test_padding_is_black_and_takes_no_gray_levels(
    tmp_path: Path, value: int, interpretation: str, window: dict
):
    tags = {"BitsStored": 16, "HighBit": 15, "PhotometricInterpretation": interpretation, **window}
    image = shown(dicom(padded(value), PixelPaddingValue=value, **tags), tmp_path)
    alone = shown(dicom(padded(value)[20:], **tags), tmp_path)
    assert not image[:20].any()
    np.testing.assert_array_equal(image[20:], alone)
    assert len(np.unique(image)) > 200


def test_padding_may_be_a_range_and_signed(tmp_path: Path):
    pixels = padded(0).astype(np.int16) - 1024
    pixels[:10], pixels[10:20] = -2000, -1990
    tags = {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1985, "BitsStored": 16, "HighBit": 15}
    image = shown(dicom(pixels, **tags), tmp_path)
    np.testing.assert_array_equal(image[20:], shown(dicom(pixels[20:], BitsStored=16, HighBit=15), tmp_path))
    assert not image[:20].any()
    data = dicom(pixels, **tags)  # the same bits, as a number without a sign
    data["PixelPaddingValue"].VR = data["PixelPaddingRangeLimit"].VR = "US"
    data.PixelPaddingValue, data.PixelPaddingRangeLimit = 2**16 - 2000, 2**16 - 1985
    np.testing.assert_array_equal(image, shown(data, tmp_path))


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": "NaN", "WindowWidth": "100"},
        {"WindowCenter": "100", "WindowWidth": "inf"},
        {"WindowCenter": 5, "WindowWidth": -3},
        {"WindowCenter": 1e6, "WindowWidth": 100},  # all black
        {"WindowCenter": -1e6, "WindowWidth": 100},  # all white
        {"WindowCenter": 100, "WindowWidth": 100, "VOILUTFunction": "CURVE"},
    ],
)
def test_a_window_that_shows_nothing_is_ignored_and_said(tmp_path: Path, tags: dict):
    odd = read_frame(save(dicom(**tags), tmp_path / "odd.dcm"))
    np.testing.assert_array_equal(odd.image, shown(dicom(), tmp_path))
    assert odd.oddities == (WINDOW_IGNORED,)


def test_the_next_window_is_taken_where_the_first_cannot_be(tmp_path: Path):
    two = dicom(WindowCenter=["NaN", 2000], WindowWidth=[100, 1000])
    np.testing.assert_array_equal(
        shown(two, tmp_path), shown(dicom(WindowCenter=2000, WindowWidth=1000), tmp_path)
    )


@pytest.mark.parametrize("slope", ["NaN", "inf", "0", "1e400"])
def test_a_rescale_that_is_no_number_is_ignored_and_said(tmp_path: Path, slope: str):
    odd = read_frame(save(dicom(RescaleSlope=slope, RescaleIntercept=0), tmp_path / "odd.dcm"))
    np.testing.assert_array_equal(odd.image, shown(dicom(), tmp_path))
    assert odd.oddities == (RESCALE_IGNORED,)


def test_frames_have_windows_and_slopes_of_their_own(tmp_path: Path):
    """As enhanced CT and MR have them (PS3.3 C.7.6.16)."""

    def group(name: str, **tags: Any) -> Dataset:
        item, holder = Dataset(), Dataset()
        for tag, value in tags.items():
            setattr(item, tag, value)
        setattr(holder, name, [item])
        return holder

    shared = group("PixelValueTransformationSequence", RescaleSlope=2, RescaleIntercept=-1024)
    each = [group("FrameVOILUTSequence", WindowCenter=c, WindowWidth=800) for c in (40, 3000)]
    data = dicom(
        np.tile(RAMP, (2, 1)),
        Rows=64,
        NumberOfFrames=2,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=each,
    )
    path = save(data, tmp_path / "enhanced.dcm")
    for frame, center in enumerate((40, 3000)):
        image = read_frame(path, frame).image.astype(int)
        assert np.abs(image - linear(RAMP * 2.0 - 1024, center, 800)).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_keeps_its_colours(tmp_path: Path, bits: int):
    ramp = np.arange(256) * (257 if bits == 16 else 1)
    tables = {"Red": ramp, "Green": ramp[::-1], "Blue": ramp // 4}
    data = dicom(EIGHT.astype(np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for colour, table in tables.items():
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, bits])
        data[f"{colour}PaletteColorLookupTableDescriptor"].VR = "US"
        kind = np.uint16 if bits == 16 else np.uint8
        setattr(data, f"{colour}PaletteColorLookupTableData", table.astype(kind).tobytes())
    expected = np.stack([EIGHT, 255 - EIGHT, EIGHT // 4], -1)
    assert np.abs(shown(data, tmp_path) - expected).max() <= 1
