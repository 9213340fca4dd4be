"""Exponential moving average of the weights, kept by each worker for the pieces that it owns.

It is sharded as the optimizer is, so a step costs no communication; a checkpoint holds its pieces beside the
weights'.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ema_decay(step: int, ceiling: float) -> float:
    """Decay at `step` (0 is the first): min(ceiling, (1 + step) / (10 + step)), so that early weights are
    soon forgotten.
    """
    return min(ceiling, (1 + step) / (10 + step))


class Ema:
    """`weights` are live views of the fp32 weights of this worker's pieces; `averages` follow them."""

    def __init__(self, weights: list[Tensor], decay: float):
        self.weights, self.decay = weights, decay
        self.averages = [w.detach().clone() for w in weights]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """average ← decay·average + (1 - decay)·weight, after optimizer step number `step`."""
        if self.averages:
            torch._foreach_lerp_(self.averages, self.weights, 1 - ema_decay(step, self.decay))
