"""Colour of 16 bits, of which Pillow keeps the upper eight alone.

Its decoders unpack a pixel's bytes as a raw mode says: with the order of the bytes reversed, the same decoder
gives the lower eight. (Pillow's handbook, "Writing your own image plugin", lists raw modes.)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
from PIL import ImageOps
from PIL.ImageFile import ImageFile

from medsd_ray.data.sources.label_values import raw_mode
from medsd_ray.data.sources.source import BadSample

_REVERSED = {"B": "L", "L": "B", "N": "B"}  # N, the machine's own order, is little endian where medsd runs
_PREMULTIPLIED = "RGBa;16"
_COLOUR = ("RGB;16", "RGBA;16", "RGBX;16", _PREMULTIPLIED)
_GRAY_WITH_ALPHA = "LA;16B"  # of PNG
_PLANAR_CONFIGURATION, _SEPARATE = 284, 2
_BITS = 258


Opened = Callable[[], AbstractContextManager[ImageFile]]
"""Opens the same image anew."""


def deep_colour(image: ImageFile, reopened: Opened) -> np.ndarray | None:
    """The values of an image whose colours have 16 bits, on black where it is transparent; None of any other.

    Args:
        image: The file, opened at its page; it is not loaded.
        reopened: Opens it once more.

    Returns:
        (height, width) or (height, width, 3), uint16.

    Raises:
        BadSample: A TIFF has such colours in separate planes, which Pillow mistakes.
    """
    tags = getattr(image, "tag_v2", {})
    deep = any(bits > 8 for bits in np.atleast_1d(tags.get(_BITS, 8)))
    if deep and tags.get(_PLANAR_CONFIGURATION) == _SEPARATE and image.mode in ("RGB", "RGBA"):
        raise BadSample("its colours of 16 bits lie in separate planes; write them side by side")
    if not image.tile:
        return None
    mode = raw_mode(image)
    if mode == _GRAY_WITH_ALPHA:  # as the four bytes that they are
        bytes_ = _decoded(reopened, "RGBA").astype(np.uint16)
        gray, alpha = (bytes_[..., i] << 8 | bytes_[..., i + 1] for i in (0, 2))
        return _on_black(gray, alpha)
    if not mode.startswith(_COLOUR):
        return None
    on_black = mode.startswith(_PREMULTIPLIED)
    mode = mode.replace(_PREMULTIPLIED, "RGBA;16")  # which Pillow would divide by the alpha
    upper = _decoded(reopened, mode).astype(np.uint16)
    values = upper << 8 | _decoded(reopened, mode[:-1] + _REVERSED[mode[-1]])
    if clear := image.info.get("transparency"):  # one colour of a PNG
        values[(values == clear).all(-1)] = 0
    colours, alpha = values[..., :3], values[..., 3:]
    return colours if on_black or not alpha.size else _on_black(colours, alpha)


def _decoded(reopened: Opened, mode: str) -> np.ndarray:
    with reopened() as image:
        image.tile = [
            tile._replace(args=mode if isinstance(tile.args, str) else (mode, *(tile.args or ())[1:]))
            for tile in image.tile
        ]
        ImageOps.exif_transpose(image, in_place=True)
        return np.asarray(image)


def _on_black(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return (values * (alpha / np.float32(65535))).round().astype(np.uint16)
