"""Randomness that belongs to a sample: a function of (seed, position, purpose), never of worker, batch or
step order.

Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is a counter-based generator: the
key comes from seed and purpose, the counter from the sample's position, so any sample's numbers can be drawn
without the others'.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def keyed_generator(seed: int, position: int, purpose: str) -> np.random.Generator:
    """A generator of its own for one sample and purpose."""
    key = np.frombuffer(
        hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest(), dtype=np.uint64
    )
    # The lowest counter word counts draws; the position stands in a higher one, so that streams never meet.
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, position, 0]))


def _each(seed: int, positions: Iterable[int] | Tensor, purpose: str) -> list[np.random.Generator]:
    return [keyed_generator(seed, int(position), purpose) for position in positions]


def keyed_noise(seed: int, positions: Iterable[int] | Tensor, shape: tuple[int, ...], purpose: str) -> Tensor:
    """Standard normal noise of shape (len(positions), *shape), float32."""
    return torch.from_numpy(
        np.stack([g.standard_normal(shape, np.float32) for g in _each(seed, positions, purpose)])
    )


def keyed_uniform(seed: int, positions: Iterable[int] | Tensor, purpose: str) -> Tensor:
    """Uniform in [0, 1), shape (len(positions),), float32."""
    return torch.tensor(
        [g.random(dtype=np.float32) for g in _each(seed, positions, purpose)], dtype=torch.float32
    )


def keyed_integers(seed: int, positions: Iterable[int] | Tensor, high: int, purpose: str) -> Tensor:
    """Uniform integers in [0, high), shape (len(positions),), int64."""
    return torch.tensor([int(g.integers(high)) for g in _each(seed, positions, purpose)], dtype=torch.int64)
