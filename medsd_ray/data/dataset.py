"""Samples by position: what is at a position depends on (seed, position) alone, whatever the number of
workers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medsd_ray.data.cache import ShardCache
from medsd_ray.data.images import ImageReader
from medsd_ray.data.latents import LatentReader, Tokenize
from medsd_ray.data.order import Order
from medsd_ray.data.shards import open_split
from medsd_ray.data.targets import Targets
from medsd_ray.errors import InputError


class ShardedDataset:
    """A split of image or latent shards, read by position (see `medsd_ray.data.order`)."""

    def __init__(
        self, url: str, split: str, seed: int, cache_dir: str | None = None, tokenize: Tokenize | None = None,
        targets: Targets | None = None,
    ):  # fmt: skip
        """Reads the split's index; shards are fetched when they are needed.

        Args:
            url: The root of all splits, or the split itself.
            split: The split's name.
            seed: Of the order of the samples.
            cache_dir: Where shards of a remote store are kept on this node's disk; a temporary folder where
                it is None.
            tokenize: Makes `input_ids` of the captions of latents.
            targets: What is read beside the pixels of images.

        Raises:
            InputError: There is no finished split of that name, or it is empty, or one of text alone.
        """
        self.store, self.index = open_split(url, split)
        if self.index.kind not in ("image", "latent"):
            raise InputError(f"{self.store.url}: {self.index.kind} shards hold no images to train on")
        if not self.index.samples:
            raise InputError(
                f"{self.store.url}: no sample in this split; prepare more data or choose another split"
            )
        self.order = Order(tuple(shard.samples for shard in self.index.shards), seed)
        self.cache = ShardCache(self.store, self.index, cache_dir)
        self._reader = ImageReader(targets) if self.index.kind == "image" else LatentReader(tokenize)

    @property
    def samples(self) -> int:
        """The number of samples, which is the number of positions of an epoch."""
        return self.index.samples

    def sample_at(self, position: int) -> dict[str, Tensor]:
        """The sample at a position: an image with its targets (see `ImageReader`), or a row of latents
        (`LatentReader`).
        """
        shard, row = self.order.sample_at(position)
        return self._reader.row(self.cache.path(shard), row)

    def prefetch(self, position: int) -> None:
        """Starts fetching the shards of the position's block and of the one after it."""
        epoch, block = self.order.locate(position)
        self.cache.prefetch(self.order.block_shards_of(epoch, block))
        self.cache.prefetch(self.order.block_shards_of(epoch, block + 1))

    def batch(self, positions: range) -> dict[str, Tensor]:
        """The samples at these positions, stacked: name -> (B, ...), and `positions` (B,) int64."""
        self.prefetch(positions[0])
        rows = [self.sample_at(position) for position in positions]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]} | {
            "positions": torch.tensor(positions)
        }


class WithPrior:
    """Training samples, each with one of a second data set: `prior_NAME` beside each NAME.

    Both are read at the same positions, each in its own order, so that the pairs too follow from (seed,
    position) alone.
    """

    def __init__(self, dataset: ShardedDataset, prior: ShardedDataset):
        self.dataset, self.prior = dataset, prior

    def batch(self, positions: range) -> dict[str, Tensor]:
        """The batch of both, as `ShardedDataset.batch` gives it."""
        return self.dataset.batch(positions) | {
            f"prior_{name}": part for name, part in self.prior.batch(positions).items()
        }
