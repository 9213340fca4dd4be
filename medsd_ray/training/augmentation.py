"""Training images changed at random, and their masks alike: each a function of seed and position alone."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medsd_ray.data.randomness import keyed_generator, keyed_noise
from medsd_ray.spec.tasks import Augmentation


def augmented(batch: dict[str, Tensor], settings: Augmentation, seed: int) -> dict[str, Tensor]:
    """A batch with changed `pixel_values` (B, 3, H, W) in [-1, 1] and, where it has one, `mask` (B, H, W).

    What turns, shifts or zooms leaves the borders' values repeated. `positions` (B,) say which samples they
    are.
    """
    pixels, positions = batch["pixel_values"], batch["positions"]
    draws = torch.from_numpy(
        np.stack([keyed_generator(seed, int(p), "augmentation").uniform(-1, 1, 8) for p in positions])
    ).float()
    turn, right, down, zoom, contrast, brightness, noise, flip = draws.T
    grid = functional.affine_grid(
        _affine(
            angle=turn * math.radians(settings.rotation),
            shift=torch.stack([right, down], 1) * 2 * settings.translation,
            scale=1 + zoom * settings.zoom,
            mirrored=(flip + 1) / 2 < settings.horizontal_flip,
        ),
        list(pixels.shape),
        align_corners=False,
    )
    moved = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    changed = moved * (1 + contrast * settings.contrast).view(-1, 1, 1, 1)
    changed += (2 * brightness * settings.brightness).view(-1, 1, 1, 1)
    if settings.noise:
        deviation = (2 * noise.abs() * settings.noise).view(-1, 1, 1, 1)
        # One value a pixel: the channels of a grayscale image stay equal.
        changed += deviation * keyed_noise(seed, positions, (1, *pixels.shape[2:]), "augmentation-noise")
    found = batch | {"pixel_values": changed.clamp(-1, 1)}
    if "mask" in batch:
        mask = batch["mask"][:, None].float()
        same = functional.grid_sample(mask, grid, mode="nearest", padding_mode="border", align_corners=False)
        found["mask"] = same[:, 0].to(batch["mask"].dtype)
    return found


def _affine(angle: Tensor, shift: Tensor, scale: Tensor, mirrored: Tensor) -> Tensor:
    """(B, 2, 3): from a place in the new image, in [-1, 1], to the one in the old; `shift` (B, 2) is in the
    same units.
    """
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    side = torch.where(mirrored, -1.0, 1.0)
    rows = [torch.stack([side * cos, -side * sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)]
    return torch.stack(rows, 1)
