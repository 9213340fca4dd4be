"""Any split of a parameter gives back any range of it."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch

from medsd_ray.runs.fragments import Piece, assemble, by_name, covering, even_share


def random_pieces(numel: int, count: int, rng: random.Random) -> list[Piece]:
    cuts = sorted(rng.sample(range(1, numel), min(count, numel) - 1))
    bounds = [0, *cuts, numel]
    pieces = [Piece("w", a, b - a, rank) for rank, (a, b) in enumerate(pairwise(bounds))]
    rng.shuffle(pieces)
    return pieces


def test_any_range_of_any_split():
    rng = random.Random(0)
    for _ in range(200):
        numel = rng.randint(1, 60)
        whole = torch.randn(numel)
        pieces = random_pieces(numel, rng.randint(1, 7), rng)
        start = rng.randint(0, numel)
        end = rng.randint(start, numel)
        found = assemble(pieces, start, end, lambda p, lo, hi, whole=whole: whole[p.start : p.end][lo:hi])
        assert torch.equal(found, whole[start:end])


def test_overlapping_pieces_serve_once():
    pieces = [Piece("w", 0, 6, 0), Piece("w", 4, 6, 1)]
    assert covering(pieces, 2, 9) == [(pieces[0], 2, 6), (pieces[1], 6, 9)]


@pytest.mark.parametrize(
    "pieces", [[], [Piece("w", 0, 4, 0)], [Piece("w", 0, 4, 0), Piece("w", 5, 5, 1)], [Piece("w", 1, 9, 0)]]
)
def test_a_gap_is_an_error(pieces: list[Piece]):
    with pytest.raises(ValueError, match="missing"):
        covering(pieces, 0, 10)


@pytest.mark.parametrize(("numel", "workers"), [(10, 1), (10, 3), (2, 4), (0, 2), (16, 16)])
def test_even_shares_cover_all_once(numel: int, workers: int):
    shares = [even_share(numel, rank, workers) for rank in range(workers)]
    assert [i for start, end in shares for i in range(start, end)] == list(range(numel))
    assert max(end - start for start, end in shares) == -(-numel // workers)


def test_by_name_groups_and_sorts():
    a, b, c = Piece("a", 5, 5, 0), Piece("b", 0, 1, 0), Piece("a", 0, 5, 1)
    assert by_name([a, b, c]) == {"a": [c, a], "b": [b]}
