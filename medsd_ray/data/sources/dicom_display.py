"""Stored values of a DICOM image to what a viewer shows: the grayscale pipeline of PS3.4 N.2.1."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

from medsd_ray.data.sources.pixels import Levels, scale, stretched, to_8bit

RESCALE_IGNORED = "a rescale slope or intercept that cannot be used, and is ignored"
WINDOW_IGNORED = "a window or LUT that cannot be used, so that the range comes from the values"


@dataclass(frozen=True, slots=True)
class Shown:
    """An image, (height, width) or (height, width, 3) uint8, and what was odd about its header."""

    image: np.ndarray
    oddities: tuple[str, ...] = ()


def display(values: np.ndarray, data: Dataset, frame: int = 0) -> Shown:
    """What a viewer shows: modality LUT or rescale, then VOI LUT or the first window that can be used, then
    polarity. Padding is black.

    Without a window the range comes from the values (`stretched`), padding left out.

    Args:
        values: A frame's stored values, (height, width), or RGB (height, width, 3).
        data: The file's header.
        frame: The frame's number, from 0, for what the header says of single frames.
    """
    if data.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, data)
        if values.dtype != np.uint8:  # a table of 16 bits spans them, though some hold 8 (PS3.3 C.7.6.3.1.5)
            values = scale(values, 0, 65535 if values.max() > 255 else 255)
    if values.ndim == 3:
        return Shown(values if values.dtype == np.uint8 else to_8bit(values))
    padding = _padding(values, data)
    levels = Levels(values, padding)
    modality, oddities = _modality(levels, data, frame)
    shades, unusable = _shades(levels, modality, data, frame)
    if data.PhotometricInterpretation == "MONOCHROME1":
        shades = 255 - shades
    image = levels.paint(shades)
    if padding is not None:
        image[padding] = 0
    return Shown(image, (*oddities, *([WINDOW_IGNORED] if unusable else [])))


def _padding(values: np.ndarray, data: Dataset) -> np.ndarray | None:
    """The pixels that only fill the rectangle, (height, width) bool; None where there are none (PS3.3
    C.7.5.1.1.2).
    """
    floats = values.dtype.kind == "f"
    first = _numbers(data, "FloatPixelPaddingValue" if floats else "PixelPaddingValue")
    last = _numbers(data, "FloatPixelPaddingRangeLimit" if floats else "PixelPaddingRangeLimit") or first
    if not first or not math.isfinite(first[0]) or not math.isfinite(last[0]):
        return None
    ends = [first[0], last[0]]
    if not floats:  # it is stored as the pixels are, and may be written with the other sign
        bits = values.dtype.itemsize * 8
        lowest = np.iinfo(values.dtype).min
        ends = [(int(end) - lowest) % 2**bits + lowest for end in ends]
    found = (values >= min(ends)) & (values <= max(ends))
    return found if found.any() else None


def _modality(levels: Levels, data: Dataset, frame: int) -> tuple[np.ndarray, list[str]]:
    """The levels' modality values, float64; and what was odd."""
    whole = levels.pixels.dtype.kind in "iu"
    if data.get("ModalityLUTSequence") and whole:
        return apply_modality_lut(levels.values.astype(np.int64), data).astype(np.float64), []
    group = _group(data, frame, "PixelValueTransformationSequence")
    slope, intercept = _numbers(group, "RescaleSlope") or [1.0], _numbers(group, "RescaleIntercept") or [0.0]
    if not slope[0] or not math.isfinite(slope[0]) or not math.isfinite(intercept[0]):
        return levels.values, [RESCALE_IGNORED]
    with np.errstate(over="ignore", invalid="ignore"):
        rescaled = levels.values * slope[0] + intercept[0]
    return (rescaled, []) if np.isfinite(rescaled).all() else (levels.values, [RESCALE_IGNORED])


def _shades(levels: Levels, values: np.ndarray, data: Dataset, frame: int) -> tuple[np.ndarray, bool]:
    """uint8 of modality values by the VOI LUT, a window, or their range; and whether there is a LUT or window
    that cannot be used: it is broken, or leaves everything black or white.
    """
    group = _group(data, frame, "FrameVOILUTSequence")
    unusable = False
    for shades in _by_voi(values, group):
        if shades is not None and not _is_flat(levels, shades):
            return shades, unusable
        unusable = True
    return stretched(levels, values), unusable and not _is_flat(levels, values)


def _is_flat(levels: Levels, shades: np.ndarray) -> bool:
    """Whether all pixels that count have one shade."""
    seen = shades if levels.counts is None else shades[levels.counts > 0]
    if levels.counts is None and levels.weights is not None:
        seen = shades[levels.weights]
    return not seen.size or bool(seen.min() == seen.max())


def _by_voi(values: np.ndarray, group: Dataset) -> Iterator[np.ndarray | None]:
    """The shades by each VOI LUT and window in turn; None for one that is broken."""
    if (lut := group.get("VOILUTSequence")) and lut[0].get("LUTDescriptor") is not None:
        yield _by_lut(values, group)
    centers, widths = _numbers(group, "WindowCenter"), _numbers(group, "WindowWidth")
    function = str(group.get("VOILUTFunction") or "LINEAR").strip().upper()
    for center, width in zip(centers, widths, strict=False):
        yield window(values, center, width, function)


def _by_lut(values: np.ndarray, group: Dataset) -> np.ndarray | None:
    item = group.VOILUTSequence[0]
    if item.get("LUTData") is None:
        return None
    entries, first, bits = item.LUTDescriptor
    if bits == 8 and entries != 256:  # pydicom would compute the places in 8 bits too
        item.LUTDescriptor = [entries, first, 16]
    places = np.arange(first, first + (entries or 2**16))
    whole = apply_voi_lut(places, group)
    within = np.rint(values).clip(places[0], places[-1]).astype(np.int32)
    return scale(apply_voi_lut(within, group), float(whole.min()), float(whole.max()))


def window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray | None:
    """uint8 of modality values by a window (PS3.3 C.11.2.1.2 and C.11.2.1.3), low values black; None where it
    has no width, or is no window.
    """
    if not (math.isfinite(center) and math.isfinite(width)) or width <= 0:
        return None
    with np.errstate(over="ignore"):
        if function == "SIGMOID":
            shares = 1 / (1 + np.exp(-4 * (values - center) / width))
        elif function == "LINEAR_EXACT":
            shares = (values - center) / width + 0.5
        elif function != "LINEAR" or width < 1:
            return None
        elif width == 1:
            shares = (values > center - 0.5).astype(np.float64)
        else:
            shares = (values - (center - 0.5)) / (width - 1) + 0.5
    return scale(shares, 0.0, 1.0)


def _group(data: Dataset, frame: int, name: str) -> Dataset:
    """The item that says something of a frame, else of all frames, else the header itself (PS3.3
    C.7.6.16)."""
    single = data.get("PerFrameFunctionalGroupsSequence") or []
    for groups in ([single[frame]] if frame < len(single) else []) + list(
        data.get("SharedFunctionalGroupsSequence") or []
    ):
        if items := groups.get(name):
            return items[0]
    return data


def _numbers(data: Dataset, keyword: str) -> list[float]:
    """A tag's values; NaN for one that is no number, none where it is absent or empty."""
    try:
        value = data.get(keyword)
    except Exception:  # pydicom converts when it is asked
        return [math.nan]
    if value is None or value == "":
        return []
    try:
        return [
            float(one)
            for one in (value if hasattr(value, "__iter__") and not isinstance(value, str) else [value])
        ]
    except (TypeError, ValueError, OverflowError):
        return [math.nan]
