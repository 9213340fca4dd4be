"""Which source a position's sample comes from: a pure function of (seed, position), so that neither a restart
nor the number of workers changes it.

A pass is as many positions as its sources give samples: each sample of a source without a weight is in it
once, and those of a weighted source as often as the weight says. It is divided into blocks. Of the p
positions before a block the first source has floor(p f), with f its share; of those that are left the second
has as many by its share of the rest, and so on: exact at the end of a pass, and never fewer at a later block.
Within a block the sources stand in an order keyed by (seed, block).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Protocol

import numpy as np

from medsd_ray.spec.data import Balance, SourceKind

BLOCK = 4096
"""Positions at most whose sources are shuffled together."""


@dataclass(frozen=True)
class SourceSplit:
    """A split of shards that samples are taken of."""

    address: str
    """Of the split's folder."""
    split: str
    """Its name."""
    samples: int
    """How many are taken of it."""
    domain: str | None = None
    """The samples of this domain alone are taken; None: all."""
    kind: SourceKind = "real"
    """Whether they are patients' or a model's."""
    weight: float | None = None
    """Samples of it for each one of the real sources without a weight; None: each of its own once a pass."""


@dataclass(frozen=True)
class SourceMix:
    """The sources of a data set, and how they are mixed."""

    sources: tuple[SourceSplit, ...]
    balance: Balance = "natural"
    """`domain`: as many samples of each domain, however many it has."""

    @property
    def domains(self) -> tuple[str, ...]:
        """All of them, sorted; empty where a source names none."""
        named = {source.domain for source in self.sources if source.domain is not None}
        return tuple(sorted(named)) if all(source.domain for source in self.sources) else ()

    @property
    def samples(self) -> int:
        """Of all sources."""
        return sum(source.samples for source in self.sources)

    @property
    def shares(self) -> list[Fraction]:
        """Of each source, of all samples that are seen."""
        if self.balance == "natural":
            return _shares(self.sources)
        shares = [Fraction(0)] * len(self.sources)
        for numbers in self.groups:
            within = _shares([self.sources[number] for number in numbers])
            for number, share in zip(numbers, within, strict=True):
                shares[number] = share / len(self.groups)
        return shares

    @property
    def groups(self) -> list[list[int]]:
        """The numbers of the sources that are mixed with each other: those of each domain, or all."""
        if self.balance == "natural":
            return [list(range(len(self.sources)))]
        return [
            [number for number, source in enumerate(self.sources) if source.domain == domain]
            for domain in self.domains
        ]


class Mixture(Protocol):
    """Sources in an order."""

    def locate(self, position: int) -> tuple[int, int]:
        """(source, position in the source) of a position."""
        ...


def mixture(mix: SourceMix, seed: int) -> Mixture:
    """The order of a mix: by domains in turn where it is balanced."""
    mixed = [
        Proportional([mix.sources[number] for number in numbers], seed, f"mixture-{place}")
        for place, numbers in enumerate(mix.groups)
    ]
    return InTurn(mixed, mix.groups)


class InTurn:
    """Mixtures that take turns, position by position."""

    def __init__(self, mixtures: Sequence[Mixture], numbers: Sequence[Sequence[int]]):
        """`numbers` are, for each mixture, those of its sources among all."""
        self.mixtures, self.numbers = mixtures, numbers

    def locate(self, position: int) -> tuple[int, int]:
        """(source, position in the source) of a position."""
        turn, which = divmod(position, len(self.mixtures))
        source, place = self.mixtures[which].locate(turn)
        return self.numbers[which][source], place


class Proportional:
    """Sources that are mixed by their samples and weights."""

    def __init__(self, sources: Sequence[SourceSplit], seed: int, purpose: str):
        """`purpose` keys the order, beside the seed."""
        self.seed, self.purpose = seed, purpose
        quantities = _quantities(sources)
        # Of each source, among those that come after the ones before it.
        self._shares = [one / sum(quantities[number:]) for number, one in enumerate(quantities)]
        self.positions = max(1, round(sum(quantities)))
        """Of a pass."""
        self._blocks = -(-self.positions // BLOCK)
        self._block = lru_cache(maxsize=4)(self._order_block)

    def locate(self, position: int) -> tuple[int, int]:
        """(source, position in the source) of a position."""
        whole, place = divmod(position, self.positions)
        # The last block that starts at or before the place: block i starts at floor(i positions / blocks).
        block = whole * self._blocks + ((place + 1) * self._blocks - 1) // self.positions
        start, sources, places = self._block(block)
        return int(sources[position - start]), int(places[position - start])

    def _start(self, block: int) -> int:
        whole, place = divmod(block, self._blocks)
        return whole * self.positions + place * self.positions // self._blocks

    def _given(self, position: int) -> np.ndarray:
        """(sources,) how many samples each has given before the start of a block."""
        given, left = [], position
        for share in self._shares:
            given.append(left * share.numerator // share.denominator)
            left -= given[-1]
        return np.array(given)

    def _order_block(self, block: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Of a block: its start, and of each of its positions the source and the position in it."""
        start, end = self._start(block), self._start(block + 1)
        before = self._given(start)
        counts = self._given(end) - before
        from medsd_ray.data.randomness import keyed_generator  # it imports torch

        sources = keyed_generator(self.seed, block, self.purpose).permutation(
            np.repeat(np.arange(len(counts)), counts)
        )
        places = np.empty_like(sources)
        for source, first in enumerate(before):
            where = sources == source
            places[where] = first + np.arange(where.sum())
        return start, sources, places


def _quantities(sources: Sequence[SourceSplit]) -> list[Fraction]:
    """Samples of each source in a pass."""
    real = sum(source.samples for source in sources if source.kind == "real" and source.weight is None)
    # A weight is taken as it is written, in decimal.
    return [
        Fraction(source.samples) if source.weight is None else Fraction(repr(source.weight)) * real
        for source in sources
    ]


def _shares(sources: Sequence[SourceSplit]) -> list[Fraction]:
    quantities = _quantities(sources)
    return [quantity / sum(quantities) for quantity in quantities]
