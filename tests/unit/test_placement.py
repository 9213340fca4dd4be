"""The way back from the square that a network saw to the image, for every fit, size and orientation."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from medsd_ray.data.sources.pixels import Fit, resize
from medsd_ray.data.sources.placement import placement
from medsd_ray.generation.masks import mask_png, to_image

SIZE = 64
SHAPES = [(64, 64), (128, 128), (200, 120), (121, 200), (40, 90), (33, 32)]


def disc(height: int, width: int) -> np.ndarray:
    """A disc in the middle, which every fit sees whole, uint8 0 or 1."""
    rows, columns = np.mgrid[:height, :width]
    side = min(height, width)
    return ((rows - height / 2 + 3) ** 2 + (columns - width / 2) ** 2 < (0.3 * side) ** 2).astype(np.uint8)


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_mask_comes_back_to_where_it_was(shape: tuple[int, int], fit: Fit):
    mask = disc(*shape)
    small = resize(mask, SIZE, fit, labels=True)
    back, seen = to_image(np.stack([1.0 - small, small]).astype(np.float32), shape, fit)
    assert back.shape == seen.shape == shape
    both = 2 * (back & mask).sum() / (back.sum() + mask.sum())
    assert both > (0.999 if shape == (SIZE, SIZE) else 0.93)
    centres = [np.argwhere(one).mean(0) for one in (back, mask)]
    assert np.abs(centres[0] - centres[1]).max() < 0.5 * max(1, max(shape) / SIZE)


def test_what_was_cropped_is_not_seen_and_what_was_padded_is_all_seen():
    sure = np.stack([np.zeros((SIZE, SIZE)), np.ones((SIZE, SIZE))]).astype(np.float32)
    back, seen = to_image(sure, (100, 180), "crop")
    assert seen[:, 40:140].all() and not seen[:, :40].any() and (back == seen).all()
    back, seen = to_image(sure, (100, 180), "pad")
    assert seen.all() and back.all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_borders_of_a_padded_image_lie_outside_of_it(shape: tuple[int, int]):
    square = resize(np.full(shape, 255, np.uint8), SIZE, "pad")
    for axis, (line, count) in enumerate(zip(placement(*shape, SIZE, "pad"), shape, strict=True)):
        white = np.flatnonzero(square.max(1 - axis))
        assert (line.offset, round(line.offset + count * line.scale)) == (white[0], white[-1] + 1)


@pytest.mark.parametrize("turned", range(1, 9))
def test_a_mask_is_stored_as_its_image_is(turned: int):
    stored = np.arange(12, dtype=np.uint8).reshape(3, 4)
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[274] = turned
    Image.fromarray(stored).save(buffer, "PNG", exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(buffer)))
    mask = Image.open(io.BytesIO(mask_png(shown, 12, turned)))
    assert (np.asarray(mask) == stored).all()
    assert (np.asarray(ImageOps.exif_transpose(mask)) == shown).all()
