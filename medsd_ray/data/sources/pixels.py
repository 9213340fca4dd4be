"""Image files and raw pixel values as 8-bit grayscale or RGB."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medsd_ray.data.sources.source import BadSample

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")


MAX_PIXELS = 2**27  # 134 million: 16 times a radiograph's, and small enough not to fill the memory


warnings.filterwarnings(
    "ignore", category=Image.DecompressionBombWarning
)  # Pillow's own limit; check_pixels says it in words


def check_pixels(height: int, width: int) -> None:
    """Refuses an image that would fill the memory, before it is decoded."""
    if height * width > MAX_PIXELS:
        raise BadSample(
            f"{width}x{height} pixels are more than the {MAX_PIXELS:,} that are read; make it smaller"
        )


def to_8bit(values: np.ndarray) -> np.ndarray:
    """Raw values of any range to uint8: from the 0.5th percentile (0) to the 99.5th (255).

    Files with more than 8 bits rarely use their whole range (12 bits in 16), so the range comes from the
    values.
    """
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise BadSample("pixel values that are no numbers; write the image anew")
    low, high = np.percentile(values, [0.5, 99.5])
    if high <= low:  # nearly all pixels are equal
        low, high = values.min(), values.max()
    return scale(values, float(low), float(high))


def scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values to uint8, `low` and below to 0, `high` and above to 255; all 0 where low is high."""
    span = high - low or 1.0
    return np.rint((values.astype(np.float32) - low).clip(0, span) * (255 / span)).astype(np.uint8)


def plain(image: Image.Image) -> np.ndarray:
    """A PIL image of any mode as uint8, (height, width) where it is grayscale in fact, else (height, width,
    3).
    """
    if image.mode.startswith("I") or image.mode == "F":
        return to_8bit(np.asarray(image))
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    rgb = np.asarray(image.convert("RGB"))
    gray = (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all()
    return rgb[..., 0] if gray else rgb


def open_image(path: Path) -> np.ndarray:
    """An image file as uint8, as `plain` gives it. Raises BadSample where it cannot be read whole."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            check_pixels(image.height, image.width)
            return plain(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise BadSample("there is no such file; add it or drop the row") from error
    except UnidentifiedImageError as error:
        raise BadSample(f"not an image that can be read; give one of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise BadSample(f"more than the {MAX_PIXELS:,} pixels that are read; make it smaller") from error
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error) as error:
        raise BadSample(
            f"a damaged image ({str(error).splitlines()[0][:80]}); copy it again or drop the row"
        ) from error


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """(size, size[, 3]): the shorter side becomes `size`, the longer one is cropped evenly at both ends.

    A square of the image is what RoentGen (Chambon et al. 2022, arXiv 2211.12737) trains on; Lanczos smooths
    as it shrinks.
    """
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(ImageOps.fit(Image.fromarray(image), (size, size), Image.Resampling.LANCZOS))
