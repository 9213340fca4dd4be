"""Augmentation: each setting acts, masks go along, and a sample's changes depend on its position alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medsd_ray.spec.tasks import Augmentation
from medsd_ray.training.augmentation import augmented

NONE = {name: 0.0 for name in Augmentation.model_fields}
SIZE = 33


def batch(count: int = 6, first: int = 0) -> dict[str, Tensor]:
    """Images with one bright square, off centre, and its mask."""
    pixels = torch.full((count, 3, SIZE, SIZE), -0.5)
    pixels[:, :, 6:14, 8:20] = 0.5
    return {
        "pixel_values": pixels,
        "mask": (pixels[:, 0] > 0).to(torch.uint8),
        "positions": torch.arange(first, first + count),
    }


def changed(settings: dict[str, Any], given: dict[str, Tensor] | None = None, seed: int = 0):
    return augmented(given or batch(), Augmentation(**(NONE | settings)), seed)


def test_without_settings_an_image_stays_as_it_is():
    found = changed({})
    torch.testing.assert_close(found["pixel_values"], batch()["pixel_values"], atol=1e-5, rtol=0)
    assert torch.equal(found["mask"], batch()["mask"])


@pytest.mark.parametrize(
    ("name", "value", "moves"),
    [
        ("rotation", 30.0, True),
        ("translation", 0.2, True),
        ("zoom", 0.3, True),
        ("horizontal_flip", 1.0, True),
        ("contrast", 0.3, False),
        ("brightness", 0.3, False),
        ("noise", 0.2, False),
    ],
)
def test_each_setting_acts_and_a_mask_goes_along(name: str, value: float, moves: bool):
    before, after = batch(), changed({name: value})
    assert not torch.allclose(before["pixel_values"], after["pixel_values"], atol=1e-3)
    assert torch.equal(before["mask"], after["mask"]) is not moves
    # Where the mask says so there is still the square, but for its edge, which is between two values.
    inside = after["mask"].bool()
    if moves:
        agree = ((after["pixel_values"][:, 0] > 0) == inside).float().mean()
        assert agree > 0.97
    assert after["mask"].dtype == torch.uint8 and set(after["mask"].unique().tolist()) <= {0, 1}


def test_a_mirror_image_is_one():
    mirrored = changed({"horizontal_flip": 1.0})
    torch.testing.assert_close(mirrored["pixel_values"], batch()["pixel_values"].flip(-1), atol=1e-5, rtol=0)
    assert torch.equal(mirrored["mask"], batch()["mask"].flip(-1))


def test_changes_are_bounded():
    shifted = changed({"brightness": 0.1})["pixel_values"] - batch()["pixel_values"]
    assert shifted.abs().max() <= 0.2 + 1e-6 and shifted.abs().max() > 0.02  # of a range of 2
    assert changed({"noise": 0.5, "brightness": 0.5})["pixel_values"].abs().max() <= 1


def test_noise_is_gray_in_a_gray_image():
    noisy = changed({"noise": 0.3})["pixel_values"]
    assert torch.equal(noisy[:, 0], noisy[:, 1]) and torch.equal(noisy[:, 1], noisy[:, 2])


def test_a_sample_depends_on_seed_and_position_alone():
    settings = {"rotation": 20.0, "noise": 0.1, "zoom": 0.2}
    whole = changed(settings)
    part = changed(settings, batch(2, first=3))
    torch.testing.assert_close(part["pixel_values"], whole["pixel_values"][3:5], atol=0, rtol=0)
    assert not torch.allclose(changed(settings, seed=1)["pixel_values"], whole["pixel_values"])
    assert not torch.allclose(whole["pixel_values"][0], whole["pixel_values"][1])
