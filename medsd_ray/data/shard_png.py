"""The images of shards: PNG of 8 bits, grayscale or RGB."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

MAX_PIXELS = 2**26
"""Four times what `prepare` writes at most."""


def write_png(array: np.ndarray) -> bytes:
    """A PNG of uint8 pixels, (height, width) or (height, width, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def read_mask(data: bytes) -> np.ndarray:
    """A mask, uint8 (height, width). Raises ValueError as `read_png`, and for one in colour."""
    mask = read_png(data)
    if mask.ndim != 2:
        raise ValueError("a mask in colour")
    return mask


def read_png(data: bytes) -> np.ndarray:
    """The pixels, uint8 (height, width) or (height, width, 3), writable.

    Raises ValueError for what is none of 8 bits, is damaged, or would fill the memory.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"a PNG of {image.width}x{image.height} pixels")
            if image.mode.startswith("I"):
                raise ValueError("a PNG of 16 bits")
            return np.array(image if image.mode == "L" else image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error).splitlines()[0]) from error
