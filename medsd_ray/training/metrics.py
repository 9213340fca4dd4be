"""A run's speed and loss between two lines of its metrics."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch
from torch import Tensor

WARM_UP_STEPS = 3
"""First steps of an attempt that the steady speed leaves out: compilation, cold caches."""


class ThroughputMeter:
    """Images per second of the steps alone, without validation, samples and saving.

    A GPU's steps are only set going by the host, so the device is waited for where a figure is taken, and
    there alone.
    """

    def __init__(self, global_batch_size: int, device: torch.device):
        self.batch, self.device = global_batch_size, device
        self._began = time.monotonic()
        self._steps, self._seconds = 0, 0.0
        self._at_window = self._warm = (0, 0.0)

    def step_done(self) -> None:
        self._steps += 1
        if self._steps == WARM_UP_STEPS:
            self._warm = self._read()

    @contextlib.contextmanager
    def paused_if(self, condition: bool) -> Iterator[None]:
        """What is done within does not count, where `condition` holds."""
        if condition:
            self._read()
        yield
        if condition:
            self._began = time.monotonic()

    def window(self) -> tuple[float, float]:
        """Images per second and seconds per step since the last call."""
        (steps, seconds), self._at_window = self._at_window, self._read()
        mean = max(self._at_window[1] - seconds, 1e-9) / (self._at_window[0] - steps)
        return self.batch / mean, mean

    def steady(self) -> float | None:
        """Images per second from the end of the warm-up to the last window; None where that is nothing."""
        steps, seconds = (now - warm for now, warm in zip(self._at_window, self._warm, strict=True))
        return self.batch * steps / seconds if self._steps >= WARM_UP_STEPS and steps > 0 else None

    def _read(self) -> tuple[int, float]:
        """Steps and their seconds up to now."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.monotonic()
        self._seconds, self._began = self._seconds + now - self._began, now
        return self._steps, self._seconds


class LossWindow:
    """Sum of losses kept on the device: it is read, which makes the device wait, only when a line is
    written.
    """

    def __init__(self, device: torch.device):
        self.sums = torch.zeros(
            2, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device
        )

    def add(self, losses: Tensor) -> None:
        """`losses` (micro batches,) are the means of a step's micro batches; all have the same size."""
        losses = losses.to(self.sums.dtype)
        self.sums += torch.stack([losses.sum(), torch.ones_like(losses).sum()])

    def close(self) -> Tensor:
        """(sum of losses, number of micro batches) since the last call."""
        sums, self.sums = self.sums, torch.zeros_like(self.sums)
        return sums
