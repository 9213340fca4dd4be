"""What the workers tell each other besides gradients: small objects over a gloo group of their own, on any
device.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Collectives:
    """All workers of a run, seen from one of them. Every method is collective: all workers call it, in the
    same order.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self._group = self.new_group()

    def new_group(self) -> Any:
        """A group for use from one other thread. Its patience covers slow uploads; a dead worker ends all by
        Ray's hand.
        """
        return dist.new_group(backend="gloo", timeout=timedelta(hours=2))

    def max(self, *values: float) -> list[float]:
        """Of each value the highest among the workers."""
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self._group)
        return tensor.tolist()

    def barrier(self) -> None:
        """Until all workers are here."""
        dist.barrier(group=self._group)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over workers, float64 on the CPU."""
        tensor = tensor.detach().to("cpu", torch.float64)
        dist.all_reduce(tensor, group=self._group)
        return tensor

    def broadcast(self, value: Any) -> Any:
        """Worker 0's value, at all workers."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def gather(self, value: Any, group: Any = None) -> list[Any] | None:
        """All workers' values by rank, at worker 0; None elsewhere."""
        box: list[Any] | None = [None] * self.world_size if self.rank == 0 else None
        dist.gather_object(value, box, dst=0, group=group or self._group)
        return box

    def all_gather(self, value: Any) -> list[Any]:
        """All workers' values by rank, at all of them."""
        box: list[Any] = [None] * self.world_size
        dist.all_gather_object(box, value, group=self._group)
        return box
