"""Raw pixel values of any kind as 8-bit grayscale or RGB of the right size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from medsd_ray.data.sources.source import BadSample

Fit = Literal["crop", "pad"]
"""How an image that is not square becomes one (`resize`)."""
MAX_PIXELS = 2**27  # 134 million: 16 times a radiograph's, and small enough not to fill the memory
MAX_LEVELS = 2**16
CHUNK = 2**22  # pixels at a time where a computation needs several times their memory

ONE_VALUE = "an image of one value, all black or all of one gray"
"""What the user is told of a picture that shows nothing."""


def check_pixels(height: int, width: int) -> None:
    """Refuses an image that would fill the memory, before it is decoded."""
    if height * width > MAX_PIXELS:
        raise BadSample(
            f"{width}x{height} pixels are more than the {MAX_PIXELS:,} that are read; make it smaller"
        )


class Levels:
    """The different values of an image, so that what is computed of each is computed once.

    An image of 16 bits has at most 65,536 of them, however large it is. Where there are more (32 bits, float)
    the levels are the pixels themselves.
    """

    def __init__(self, pixels: np.ndarray, ignored: np.ndarray | None = None) -> None:
        """Counts them.

        Args:
            pixels: Any shape, whole numbers or floats.
            ignored: bool, the same shape: pixels that do not count, such as padding.

        Raises:
            BadSample: A pixel that counts is no number.
        """
        self.pixels, self.first = pixels, 0
        self.counts: np.ndarray | None = None
        """How many pixels have each level; None where the levels are the pixels."""
        self.weights = None if ignored is None else ~ignored.reshape(-1)
        if pixels.dtype.kind in "iu":
            self.first = int(pixels.min())
            span = int(pixels.max()) - self.first + 1
            if span <= MAX_LEVELS:
                self.values = np.arange(self.first, self.first + span, dtype=np.float64)
                self.counts = np.zeros(span, np.int64)
                for at, part in self._parts():
                    kept = part if self.weights is None else part[self.weights[at]]
                    self.counts += np.bincount(kept, minlength=span)
                return
        self.values = pixels.reshape(-1)
        counted = self.values if self.weights is None else self.values[self.weights]
        if not np.isfinite(counted).all():
            raise BadSample("pixel values that are no numbers; write the image anew")

    def _parts(self) -> Iterator[tuple[slice, np.ndarray]]:
        """(slice, its levels' numbers from 0) of the flat pixels, a chunk at a time."""
        flat = self.pixels.reshape(-1)
        for start in range(0, flat.size, CHUNK):
            at = slice(start, start + CHUNK)
            yield at, flat[at].astype(np.int64) - self.first

    def percentiles(self, shown: np.ndarray, low: float, high: float) -> tuple[float, float]:
        """Two percentiles, from 0 to 100, of what the pixels are shown as, as `numpy.percentile` has them.

        `shown` has a value for each level. (0, 0) where no pixel counts.
        """
        if self.counts is None:
            counted = shown if self.weights is None else shown[self.weights]
            found = np.percentile(counted, [low, high]) if counted.size else (0.0, 0.0)
            return float(found[0]), float(found[1])
        order = np.argsort(shown, kind="stable")
        order = order[self.counts[order] > 0]
        if not order.size:
            return 0.0, 0.0
        values, ends = shown[order], np.cumsum(self.counts[order])

        def percentile(share: float) -> float:
            place = share / 100 * (ends[-1] - 1)
            below, above = (values[np.searchsorted(ends, rank, side="right")] for rank in _around(place))
            return float(below + (above - below) * (place % 1))

        return percentile(low), percentile(high)

    def paint(self, shown: np.ndarray) -> np.ndarray:
        """The image, uint8, of each level's shade."""
        if self.counts is None:
            return shown.reshape(self.pixels.shape)
        image = np.empty(self.pixels.size, np.uint8)
        for at, part in self._parts():
            image[at] = shown[part]
        return image.reshape(self.pixels.shape)


def _around(place: float) -> tuple[int, int]:
    return int(np.floor(place)), int(np.ceil(place))


def stretched(levels: Levels, shown: np.ndarray) -> np.ndarray:
    """Shades, uint8, of what the levels are shown as: from the 0.5th percentile (0) to the 99.5th (255).

    Files with more than 8 bits rarely use their whole range (12 bits in 16), so the range comes from the
    values.
    """
    low, high = levels.percentiles(shown, 0.5, 99.5)
    if high <= low:  # nearly all pixels are equal
        low, high = levels.percentiles(shown, 0, 100)
    return scale(shown, low, high)


def to_8bit(values: np.ndarray) -> np.ndarray:
    """Raw values of any range to uint8, as `stretched` has it. Raises BadSample where one is no number."""
    levels = Levels(values)
    return levels.paint(stretched(levels, levels.values))


def scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values to uint8, `low` and below to 0, `high` and above to 255; all 0 where low is high."""
    span = high - low or 1.0
    shades = np.empty(values.shape, np.uint8)
    flat, out = values.reshape(-1), shades.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        at = slice(start, start + CHUNK)
        part = (np.nan_to_num(flat[at].astype(np.float64), nan=low) - low).clip(0, span)
        out[at] = np.rint(part * (255 / span))
    return shades


def without_colour(rgb: np.ndarray) -> np.ndarray:
    """(height, width) of (height, width, 3) where the three are the same, else as it is."""
    gray = (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all()
    return np.ascontiguousarray(rgb[..., 0]) if gray else rgb


def resize(image: np.ndarray, size: int, fit: Fit = "crop", labels: bool = False) -> np.ndarray:
    """(size, size[, 3]) of an image, by Lanczos, which smooths as it shrinks; or of a mask (`labels`), whose
    values stay as they are: each pixel's is the nearest one's.

    `crop`: the shorter side becomes `size`, the longer one is cropped evenly at both ends; a square of the
    image is what RoentGen (Chambon et al. 2022, arXiv 2211.12737) trains on. `pad`: the longer side becomes
    `size`, the shorter one gets even borders of 0.
    """
    if image.shape[:2] == (size, size):
        return image
    method = Image.Resampling.NEAREST if labels else Image.Resampling.LANCZOS
    fitted = ImageOps.fit if fit == "crop" else ImageOps.pad
    return np.asarray(fitted(Image.fromarray(image), (size, size), method))
