"""uint8 to [-1, 1] and back: exact, and in the same layout of memory whatever the number of channels."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from medsd_ray.models.pixels import to_uint8, to_unit_range, vae_scale_factor

LEVELS = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_level_comes_back(channels: int):
    unit = to_unit_range(LEVELS.expand(2, channels, -1, -1))
    assert unit.dtype == torch.float32 and unit.shape == (2, 3, 16, 16)
    assert (unit.min(), unit.max()) == (-1, 1)
    assert torch.equal(unit[1, 2], LEVELS[0, 0].float() / 127.5 - 1)
    back = to_uint8(unit)
    assert back.dtype == torch.uint8 and torch.equal(back, LEVELS.expand(2, 3, -1, -1).permute(0, 2, 3, 1))


def test_beyond_the_range_is_cut_off():
    unit = torch.tensor([-1.5, -0.001, 1.5]).view(1, 3, 1, 1)
    assert to_uint8(unit).flatten().tolist() == [0, 127, 255]


def test_the_factor_of_a_vae_with_four_blocks():
    vae = SimpleNamespace(config={"block_out_channels": (1, 1, 1, 1)})
    assert vae_scale_factor(vae) == 8
