"""A segmenter's answer as a mask over the image that it was asked about."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import grid_sample

from medsd_ray.data.sources.image_files import ORIENTATION
from medsd_ray.data.sources.pixels import Fit
from medsd_ray.data.sources.placement import placement

_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF's orientation (CIPA DC-008, 4.6.4) -> from the image as it is shown to the image as it is stored."""


def to_image(probabilities: np.ndarray, shape: tuple[int, int], fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """The most likely class of each pixel of an image, from the square that the network saw of it.

    Args:
        probabilities: (1 + C, size, size), the background first.
        shape: (height, width) of the image.
        fit: How it became a square.

    Returns:
        (height, width) uint8, 0 the background, and (height, width) bool: whether the network saw the pixel.
        What was cropped is background.
    """
    size = probabilities.shape[-1]
    axes = placement(*shape, size, fit)
    rows, columns = (axis.places(count, size) for axis, count in zip(axes, shape, strict=True))
    grid = np.stack(np.broadcast_arrays(columns[None, :], rows[:, None]), axis=-1)
    sampled = grid_sample(
        torch.from_numpy(probabilities)[None],
        torch.from_numpy(grid.astype(np.float32))[None],
        padding_mode="border",
        align_corners=False,
    )
    seen = np.all(np.abs(grid) <= 1, axis=-1)
    return np.where(seen, sampled[0].argmax(0).numpy(), 0).astype(np.uint8), seen


def mask_png(mask: np.ndarray, classes: int, turned: int) -> bytes:
    """A PNG of a mask, (height, width) uint8: 0 and 255 of one class, else 0, 1, 2, ... It is stored as its
    image is: where that has an orientation by EXIF (`turned`, from 2 to 8) the mask has the same.
    """
    picture, options = Image.fromarray(mask * 255 if classes == 1 else mask), {}
    if turned in _BACK:
        picture = picture.transpose(_BACK[turned])
        exif = Image.Exif()
        exif[ORIENTATION] = turned
        options = {"exif": exif}
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return buffer.getvalue()
