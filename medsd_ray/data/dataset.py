"""Samples by position: what is at a position depends on (seed, position) alone, whatever the number of
workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from medsd_ray.data.cache import ShardCache
from medsd_ray.data.conditions import ConditionTargets
from medsd_ray.data.domains import of_domain
from medsd_ray.data.images import ImageReader
from medsd_ray.data.latents import LatentReader, Tokenize
from medsd_ray.data.mixture import SourceMix, mixture
from medsd_ray.data.order import Order
from medsd_ray.data.shards import open_split
from medsd_ray.data.targets import Targets
from medsd_ray.errors import InputError


class Dataset(Protocol):
    """Samples by position."""

    @property
    def samples(self) -> int:
        """How many there are."""
        ...

    def sample_at(self, position: int) -> dict[str, Tensor]:
        """The tensors of the sample at a position."""
        ...

    def batch(self, positions: range) -> dict[str, Tensor]:
        """The samples at these positions, stacked: name -> (B, ...), and `positions` (B,) int64."""
        ...


class ShardedDataset:
    """A split of image or latent shards, read by position (see `medsd_ray.data.order`)."""

    def __init__(
        self, url: str, split: str, seed: int, cache_dir: str | None = None, tokenize: Tokenize | None = None,
        targets: Targets | None = None, conditions: ConditionTargets | None = None, domain: str | None = None,
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
            conditions: What is read beside latents.
            domain: The samples of this domain alone are read (see `of_domain`); None: all.

        Raises:
            InputError: There is no finished split of that name, or it is empty, or one of text alone, or
                without the domain.
        """
        self.store, index = open_split(url, split)
        self.index = of_domain(index, domain, self.store.url)
        if self.index.kind not in ("image", "latent"):
            raise InputError(f"{self.store.url}: {self.index.kind} shards hold no images to train on")
        if not self.index.samples:
            raise InputError(
                f"{self.store.url}: no sample in this split; prepare more data or choose another split"
            )
        self.order = Order(tuple(shard.samples for shard in self.index.shards), seed)
        self.cache = ShardCache(self.store, self.index, cache_dir)
        self._reader = (
            ImageReader(targets) if self.index.kind == "image" else LatentReader(tokenize, conditions)
        )

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
        return _stacked([self.sample_at(position) for position in positions], positions)


class MixedDataset:
    """The samples of several sources, each in its own order, mixed (see `medsd_ray.data.mixture`)."""

    def __init__(self, datasets: Sequence[ShardedDataset], mix: SourceMix, seed: int):
        """`datasets` are those of the mix's sources, in its order; `seed` keys the order of the sources."""
        self.datasets = datasets
        self.mixture = mixture(mix, seed)
        domains = mix.domains
        self._domains = [torch.tensor(domains.index(one.domain)) for one in mix.sources if domains]

    @property
    def samples(self) -> int:
        """The number of samples of all sources."""
        return sum(dataset.samples for dataset in self.datasets)

    def sample_at(self, position: int) -> dict[str, Tensor]:
        """The sample at a position, as its source has it; where all sources name a domain, with `domain`, its
        number among them in alphabetical order, int64.
        """
        return self._read(*self.mixture.locate(position))

    def _read(self, source: int, place: int) -> dict[str, Tensor]:
        sample = self.datasets[source].sample_at(place)
        return sample | ({"domain": self._domains[source]} if self._domains else {})

    def batch(self, positions: range) -> dict[str, Tensor]:
        """The samples at these positions, stacked: name -> (B, ...), and `positions` (B,) int64."""
        located = [self.mixture.locate(position) for position in positions]
        for source, first in dict(reversed(located)).items():
            self.datasets[source].prefetch(first)
        return _stacked([self._read(*one) for one in located], positions)


def _stacked(rows: list[dict[str, Tensor]], positions: range) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]} | {
        "positions": torch.tensor(positions)
    }


class WithPrior:
    """Training samples, each with one of a second data set: `prior_NAME` beside each NAME.

    Both are read at the same positions, each in its own order, so that the pairs too follow from (seed,
    position) alone.
    """

    def __init__(self, dataset: Dataset, prior: Dataset):
        self.dataset, self.prior = dataset, prior

    @property
    def samples(self) -> int:
        """The number of training samples."""
        return self.dataset.samples

    def sample_at(self, position: int) -> dict[str, Tensor]:
        """The samples of both at a position."""
        return _with_prior(self.dataset.sample_at(position), self.prior.sample_at(position))

    def batch(self, positions: range) -> dict[str, Tensor]:
        """The batch of both."""
        return _with_prior(self.dataset.batch(positions), self.prior.batch(positions))


def _with_prior(sample: dict[str, Tensor], prior: dict[str, Tensor]) -> dict[str, Tensor]:
    return sample | {f"prior_{name}": part for name, part in prior.items()}
