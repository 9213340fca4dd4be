"""How much images of one prompt differ: MS-SSIM between pairs of them. Near 1, they are copies of each
other.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

from medsd_ray.evaluation.estimates import Missing, put
from medsd_ray.evaluation.figures.sets import NO_BASE, Sets

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents of the five scales (Wang et al. 2003, sec. 3.2)
WINDOW = 11  # pixels, of SSIM's Gaussian
PAIRS = 300


@dataclass(frozen=True)
class Similarity:
    """Mean MS-SSIM over pairs, its deviation from pair to pair, and how many pairs and prompts it is over."""

    mean: float
    std: float
    pairs: int
    prompts: int


def scales(size: int) -> tuple[float, ...]:
    """The exponents for images of `size` pixels: all five where they fit, else the first ones, made to sum to
    1 again.

    The published measure (Wang et al. 2003) halves the image four times and needs more than 160 px. Empty:
    too small.
    """
    for count in range(len(BETAS), 0, -1):
        # torchmetrics' own bound, which is a little stricter than that the window fits the smallest image.
        if size // max(1, count - 1) ** 2 >= WINDOW and size >= 2**count:
            used = np.array(BETAS[:count])
            return tuple((used / used.sum()).tolist())
    return ()


def pairs_of_equals(
    captions: list[str], groups: list[str], seed: int, limit: int = PAIRS
) -> list[tuple[int, int]]:
    """Up to `limit` random pairs of images with the same caption and different groups (patients), each pair
    once.
    """
    rng = np.random.default_rng([seed, 23])
    members = defaultdict(list)
    for index, caption in enumerate(captions):
        members[caption].append(index)
    pairs: set[tuple[int, int]] = set()
    lists = [m for m in members.values() if len({groups[i] for i in m}) > 1]
    weights = np.array([len(m) * (len(m) - 1) for m in lists], dtype=float)
    for _ in range(limit * 4 if lists else 0):
        one = lists[rng.choice(len(lists), p=weights / weights.sum())]
        a, b = sorted(rng.choice(one, 2, replace=False).tolist())
        if groups[a] != groups[b]:
            pairs.add((a, b))
        if len(pairs) == limit:
            break
    return sorted(pairs)


def similarity(pixels: np.ndarray, captions: list[str], groups: list[str], seed: int) -> Similarity:
    """MS-SSIM of images (N, H, W, C) uint8 that share a caption. Raises ValueError where no pair or no scale
    fits.
    """
    if not scales(min(pixels.shape[1:3])):
        raise ValueError(
            f"images of {pixels.shape[2]}x{pixels.shape[1]} px are smaller than SSIM's {WINDOW} px window"
        )
    pairs = pairs_of_equals(captions, groups, seed)
    if not pairs:
        raise ValueError("no two images share a prompt")
    found = of_pairs(pixels, pairs)
    return Similarity(
        float(found.mean()), float(found.std()), len(pairs), len({captions[a] for a, _ in pairs})
    )


def of_pairs(pixels: np.ndarray, pairs: list[tuple[int, int]]) -> np.ndarray:
    """MS-SSIM of each pair of images, at the scales that their size allows."""
    betas, values = scales(min(pixels.shape[1:3])), []
    for start in range(0, len(pairs), 50):
        some = np.array(pairs[start : start + 50])
        one, other = (torch.from_numpy(pixels[some[:, i]]).permute(0, 3, 1, 2).float() / 255 for i in (0, 1))
        values.append(ms_ssim(one, other, data_range=1.0, betas=betas, reduction=None))
    return torch.cat(values).double().numpy()


def diversity_section(sets: Sets, seed: int) -> dict:
    """MS-SSIM between images of one prompt (generated, base) and of one caption (real held-out, different
    patients).
    """
    betas = scales(min(sets.generated.pixels.shape[1:3]))
    section: dict[str, Any] = {
        "scales": len(betas),
        "betas": [round(b, 4) for b in betas],
        "published_scales": len(BETAS),
    }
    for name, images in (("generated", sets.generated), ("real", sets.held_out), ("base", sets.base)):
        if images is None:
            put(section, name, NO_BASE)
            continue
        try:
            found = similarity(images.pixels, images.captions, images.groups, seed)
        except ValueError as error:
            put(section, name, Missing(str(error)))
            continue
        section |= {
            name: found.mean,
            f"{name}_std": found.std,
            f"{name}_pairs": found.pairs,
            f"{name}_prompts": found.prompts,
        }
    return section
