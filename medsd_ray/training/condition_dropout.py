"""Which conditions a training sample loses, so that each can guide alone and together with the others."""

from __future__ import annotations

import torch
from torch import Tensor

from medsd_ray.data.randomness import keyed_integers, keyed_uniform


def dropped(seed: int, positions: Tensor, count: int, share: float, purpose: str) -> Tensor:
    """Whether each of `count` conditions is dropped, (len(positions), count) bool; a function of the seed and
    each sample's position alone.

    A share of the samples loses all conditions, as much again all but one, and of the others each condition
    is lost with the same probability: what joint guidance (Ho & Salimans 2022, arXiv 2207.12598) and one
    guidance for each condition (Liu et al. 2022, arXiv 2206.01714) ask the model for. One condition alone is
    dropped by the share.
    """
    which = keyed_uniform(seed, positions, f"{purpose}-dropout")
    all_of_them = (which < share)[:, None].expand(-1, count)
    if count == 1:
        return all_of_them
    kept = keyed_integers(seed, positions, count, f"{purpose}-kept")
    all_but_one = torch.arange(count) != kept[:, None]
    each = torch.stack(
        [keyed_uniform(seed, positions, f"{purpose}-dropout-{number}") for number in range(count)], dim=1
    )
    alone = (which >= share) & (which < 2 * share)
    return all_of_them | torch.where(alone[:, None], all_but_one, each < share)
