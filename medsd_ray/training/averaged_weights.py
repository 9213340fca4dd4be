"""The moving average in the place of the weights, for as long as it is looked at.

Each worker holds the averages and the float32 weights of the pieces that it owns. Every parameter is put
together from its pieces, one at a time, so that this costs no worker a second model, at any ZeRO stage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from medsd_ray.runs.fragments import Piece
from medsd_ray.training.ema import Ema
from medsd_ray.training.engine import Engine, OwnedRanges


class AveragedWeights:
    """Exchanges weights and averages. `pieces` are those of all workers, by parameter."""

    def __init__(
        self, engine: Engine, owned_ranges: OwnedRanges, ema: Ema | None, pieces: dict[str, list[Piece]]
    ):
        self.engine, self.owned_ranges, self.ema, self.pieces = engine, owned_ranges, ema, pieces

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """While it is entered the engine computes with the averages; after it with the weights, bit for bit.
        Nothing changes in a run without a moving average. All workers enter and leave it.
        """
        if self.ema is None:
            yield
            return
        weights = [owned.view(owned.tensor).clone() for _, owned in self.owned_ranges]
        self._put(self.ema.averages)
        # After an error the run is over, and other workers may not come to exchange anything.
        yield
        self._put(weights)

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        """`values` are this worker's, one for each of its owned ranges."""
        mine = {piece: value for (piece, _), value in zip(self.owned_ranges, values, strict=True)}
        for name, shape in self.engine.shapes.items():
            whole = torch.empty(torch.Size(shape).numel(), device=self.engine.device)
            for piece in self.pieces[name]:
                part = whole[piece.start : piece.end]
                if piece in mine:
                    part.copy_(mine[piece])
                if self.engine.world_size > 1:
                    dist.broadcast(part, src=piece.rank)
            self.engine.put(name, whole.view(shape))
