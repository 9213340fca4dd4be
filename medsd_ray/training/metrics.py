"""A run's speed and loss between two lines of its metrics."""

from __future__ import annotations

import torch
from torch import Tensor

WARM_UP_STEPS = 3
"""First steps of an attempt that the steady speed leaves out: compilation, cold caches."""


class ThroughputMeter:
    """Images per second of the steps alone, without validation, samples and saving."""

    def __init__(self, global_batch_size: int):
        self.batch = global_batch_size
        self._all: list[float] = []
        self._closed = 0

    def add(self, seconds: float) -> None:
        self._all.append(seconds)

    def window(self) -> tuple[float, float]:
        """Images per second and seconds per step since the last call."""
        seconds, self._closed = self._all[self._closed :], len(self._all)
        mean = sum(seconds) / len(seconds)
        return self.batch / mean, mean

    def steady(self) -> float | None:
        """Images per second over all steps but the first; None where there are too few."""
        seconds = self._all[WARM_UP_STEPS:]
        return self.batch * len(seconds) / sum(seconds) if seconds else None


class LossWindow:
    """Sum of losses kept on the device: it is read, which makes the device wait, only when a line is
    written.
    """

    def __init__(self, device: torch.device):
        self.sums = torch.zeros(
            2, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device
        )

    def add(self, loss: Tensor) -> None:
        """`loss` is the mean of one micro batch; all have the same size."""
        self.sums += torch.stack([loss.to(self.sums.dtype), torch.ones_like(self.sums[0])])

    def close(self) -> Tensor:
        """(sum of losses, number of micro batches) since the last call."""
        sums, self.sums = self.sums, torch.zeros_like(self.sums)
        return sums
