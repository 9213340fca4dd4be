"""Which worker holds which piece of which parameter, and how a piece is put together from others. Pure.

A parameter is seen as a flat vector. At each ZeRO stage a worker owns some half-open ranges of some of them;
a checkpoint holds all the ranges of all workers of the run that wrote it. A run of another stage or world
size wants other ranges: they are assembled from the saved ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, order=True)
class Piece:
    """Elements [start, start + length) of the flattened parameter `name`, held by `rank`."""

    name: str
    start: int
    length: int
    rank: int

    @property
    def end(self) -> int:
        """The element after the last."""
        return self.start + self.length

    def key(self, kind: str) -> str:
        """The tensor's name in a checkpoint's file; `kind` is weight, ema, exp_avg or exp_avg_sq."""
        return f"{kind}:{self.name}@{self.start}"


def even_share(numel: int, rank: int, world_size: int) -> tuple[int, int]:
    """[start, end) of worker `rank` when `numel` elements are shared out in equal parts, the last ones
    shorter.
    """
    size = -(-numel // world_size)
    return min(rank * size, numel), min((rank + 1) * size, numel)


def covering(pieces: Iterable[Piece], start: int, end: int) -> list[tuple[Piece, int, int]]:
    """For each piece needed to make up [start, end): the piece and the range of it that is wanted, in order.

    The pieces are of one parameter. Ranges are in the parameter's own elements and together cover [start,
    end) once. Raises ValueError where an element is missing.
    """
    wanted, at = [], start
    for piece in sorted(pieces):
        if piece.end <= at or at >= end:
            continue
        if piece.start > at:
            break
        stop = min(piece.end, end)
        wanted.append((piece, at, stop))
        at = stop
    if at < end:
        raise ValueError(f"elements {at} to {end} are missing")
    return wanted


def assemble(
    pieces: Iterable[Piece],
    start: int,
    end: int,
    read: Callable[[Piece, int, int], Tensor],
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The flat tensor of elements [start, end); float32 where no `dtype` is named. `read(piece, lo, hi)`
    gives elements [lo, hi) *of the piece*.

    Raises ValueError where an element is missing.
    """
    import torch  # who asks which pieces there are needs none

    dtype = dtype or torch.float32
    parts = [
        read(piece, lo - piece.start, hi - piece.start) for piece, lo, hi in covering(pieces, start, end)
    ]
    return torch.cat(parts).to(dtype) if parts else torch.empty(0, dtype=dtype)


def by_name(pieces: Iterable[Piece]) -> dict[str, list[Piece]]:
    """Parameter name -> its pieces, sorted."""
    groups: dict[str, list[Piece]] = {}
    for piece in sorted(pieces):
        groups.setdefault(piece.name, []).append(piece)
    return groups
