"""Which sample comes when: a pure function of (seed, epoch), never of the number of workers.

Position p, the number of samples that the whole job has consumed before, is the only state: with N samples it
is place p % N of epoch p // N. Shards are shuffled, then samples within blocks of a few shards, so that
memory and downloads stay bounded however large the data set is: an epoch costs one number a shard, and a
block one number a sample of it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

BLOCK_SHARDS = 16
"""Shards whose samples are shuffled together."""


class Order:
    """The order over shards of given sizes."""

    def __init__(self, sizes: tuple[int, ...], seed: int, block_shards: int = BLOCK_SHARDS):
        """Makes an order, of which nothing is computed yet.

        Args:
            sizes: Samples of each shard.
            seed: Of the shuffles.
            block_shards: Shards whose samples are shuffled together.

        Raises:
            ValueError: There is no sample.
        """
        self.sizes, self.seed, self.block_shards = np.asarray(sizes, dtype=np.int64), seed, block_shards
        self.samples = int(self.sizes.sum())
        if not self.samples:
            raise ValueError("no samples")
        self._epoch = lru_cache(maxsize=2)(self._shuffle_shards)
        self._block = lru_cache(maxsize=4)(self._shuffle_block)

    def _shuffle_shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's shard order, and the place at which each of its blocks starts (with the end as the
        last).
        """
        shards = np.random.default_rng([self.seed, epoch]).permutation(len(self.sizes))
        ends = np.cumsum(self.sizes[shards])
        starts = np.concatenate([[0], ends[self.block_shards - 1 :: self.block_shards]])
        return shards, starts if starts[-1] == self.samples else np.append(starts, self.samples)

    def block_shards_of(self, epoch: int, block: int) -> np.ndarray:
        """The shards of one block, in the order in which they are shuffled together."""
        return self._epoch(epoch)[0][block * self.block_shards : (block + 1) * self.block_shards]

    def _shuffle_block(self, epoch: int, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shards = self.block_shards_of(epoch, block)
        ends = np.cumsum(self.sizes[shards])
        places = np.random.default_rng([self.seed, epoch, block]).permutation(int(ends[-1]))
        return shards, ends, places

    def locate(self, position: int) -> tuple[int, int]:
        """(epoch, block) of a position."""
        epoch, place = divmod(position, self.samples)
        return epoch, int(np.searchsorted(self._epoch(epoch)[1], place, side="right")) - 1

    def sample_at(self, position: int) -> tuple[int, int]:
        """(shard, row in it) of a position."""
        epoch, block = self.locate(position)
        shards, ends, places = self._block(epoch, block)
        place = places[position % self.samples - self._epoch(epoch)[1][block]]
        which = int(np.searchsorted(ends, place, side="right"))
        return int(shards[which]), int(place - (ends[which - 1] if which else 0))


def batch_positions(step: int, global_batch_size: int, rank: int, world_size: int) -> range:
    """The positions of a worker's share of a step: a contiguous part of the global batch.

    Raises ValueError where the batch does not divide evenly.
    """
    share, rest = divmod(global_batch_size, world_size)
    if rest:
        raise ValueError(f"a global batch of {global_batch_size} does not divide over {world_size} workers")
    start = step * global_batch_size + rank * share
    return range(start, start + share)
