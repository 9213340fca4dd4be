"""Generated images as PNG files that say what they are."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

NOTICE = "research use only: a generated image, not of a patient"
GRAYSCALE = 4  # levels: channels that differ by less on average show no colour


def encode_png(image: np.ndarray, text: dict[str, str]) -> bytes:
    """A (H, W, 3) uint8 image as PNG with `text` in its text chunks; grayscale (mode L) where it shows no
    colour.
    """
    levels = image.astype(np.float32)
    mean = levels.mean(axis=-1, keepdims=True)
    if np.abs(levels - mean).mean() < GRAYSCALE:
        image = mean[..., 0].round().astype(np.uint8)
    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", pnginfo=info)
    return file.getvalue()
