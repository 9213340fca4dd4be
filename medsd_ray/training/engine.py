"""What the loop asks of whatever moves the weights: a step, and the pieces of weights and moments that this
worker owns.

Two files fulfil it. `replicated_engine.py` is ZeRO stage 0: every worker holds all. `zero_engine.py` is
DeepSpeed's ZeRO, stages 1 to 3. In both, weights and gradients are of the run's precision, and Adam works on
float32 masters and moments, which are what a checkpoint holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medsd_ray.models.precision import DTYPES
from medsd_ray.runs.fragments import Piece, even_share
from medsd_ray.spec.run import RunSpec
from medsd_ray.spec.training import Training

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class ParameterRange:
    """One parameter, or this worker's range of it, as its float32 master lies in memory.

    `tensor` is what the optimizer knows (a parameter, its master, or DeepSpeed's flat partition); elements
    [start, start + length) of the parameter are its elements [offset, offset + length).
    """

    name: str
    start: int
    length: int
    tensor: Tensor
    offset: int

    def view(self, tensor: Tensor) -> Tensor:
        """This range of `tensor`, which is of the shape of the range's own: a flat view, (length,)."""
        return tensor.detach().view(-1).narrow(0, self.offset, self.length)


OwnedRanges = list[tuple[Piece, ParameterRange]]
"""What one worker saves: each range as a checkpoint names it, and where it lies in this worker's memory."""


FIRST_SCALE, GOOD_STEPS = 2.0**16, 1000


class LossScale:
    """Dynamic loss scaling for fp16 (Micikevicius et al. 2018, arXiv 1710.03740, sec. 3.2): the scale is
    halved where a gradient is not finite, and doubled after GOOD_STEPS steps without one. 1 for other
    precisions. Both numbers are tensors, so that no step waits for the device.
    """

    def __init__(self, training: Training, device: torch.device):
        self.scale = torch.tensor(FIRST_SCALE if training.precision == "fp16" else 1.0, device=device)
        self.good_steps = torch.tensor(0, dtype=torch.int32, device=device)

    def update(self, found_inf: Tensor) -> None:
        """After a step: `found_inf` is 1.0 where its gradient was not finite, else 0.0."""
        torch._amp_update_scale_(self.scale, self.good_steps, found_inf, 2.0, 0.5, GOOD_STEPS)
        self.scale.clamp_(min=1.0)

    def state(self) -> tuple[float, int]:
        """The scale and the good steps since it last changed, as a checkpoint holds them. The device
        waits.
        """
        return self.scale.item(), int(self.good_steps.item())

    def restore(self, scale: float, good_steps: int) -> None:
        self.scale.fill_(scale)
        self.good_steps.fill_(good_steps % GOOD_STEPS)


class Engine(ABC):
    """A module whose trained parameters are those with `requires_grad`, and what trains it.

    Call it with a batch for the mean loss of that batch, a float32 scalar.
    """

    adam: torch.optim.Optimizer
    """The optimizer that holds Adam's moments."""
    ranges: list[ParameterRange]
    """All ranges of trained parameters whose master and moments this worker has."""
    loss_scale: LossScale
    norm: Tensor | float
    """The gradient's norm of the last step, before clipping, over all workers; on the device."""
    graphed: bool = False
    """Whether steps are replays of one CUDA graph."""

    def __init__(self, module: nn.Module, run: RunSpec, peaks: dict[str, float], device: torch.device):
        """Notes what the loop and the checkpoints ask for; torch.distributed is up.

        Args:
            module: What is trained, on `device`, float32.
            run: The run, for its training section.
            peaks: Component -> peak learning rate.
            device: This worker's device.
        """
        import torch.distributed as dist

        self.training: Training = run.training
        self.device, self.peaks = device, peaks
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.dtype = DTYPES[self.training.precision or "fp32"]
        self.shapes = {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}
        self.norm = 0.0

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """What is trained; at ZeRO stage 3 its parameters are empty between passes."""

    @abstractmethod
    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        """The mean loss of a batch."""

    @abstractmethod
    def step(self, micro_batches: Sequence[dict[str, Tensor]], factor: float) -> Tensor:
        """Forward and backward on each micro batch, then one update at `factor` times the peak learning
        rates.

        A step whose gradient is not finite changes nothing, on all workers alike. Returns the micro batches'
        mean losses, (micro batches,), on the device.
        """

    @abstractmethod
    def updates(self) -> int:
        """Optimizer steps applied: Adam's own count, which a skipped step does not raise. The device
        waits.
        """

    @abstractmethod
    def skipped(self) -> int:
        """Steps in a row, up to the last, whose gradient was not finite. The device waits."""

    @abstractmethod
    def _set_updates(self, updates: int) -> None: ...

    def owned_ranges(self) -> OwnedRanges:
        """The pieces that this worker saves: all that it holds, at stage 0 (where all hold all) an even share
        of it.
        """
        owned_ranges = []
        for part in self.ranges:
            start, end = (
                even_share(part.length, self.rank, self.world_size)
                if self.training.zero_stage == 0
                else (0, part.length)
            )
            if end > start:
                share = ParameterRange(
                    part.name, part.start + start, end - start, part.tensor, part.offset + start
                )
                owned_ranges.append((Piece(part.name, share.start, share.length, self.rank), share))
        return owned_ranges

    @torch.no_grad()
    def put(self, name: str, values: Tensor) -> None:
        """Makes a parameter compute with `values`, float32 and of its shape, in the run's precision; all
        workers call it with the same. In fp32 at stages 0 and 3 the parameter is its own master.
        """
        self.module.get_parameter(name).copy_(values)

    def moments(self, owned: ParameterRange) -> dict[str, Tensor]:
        """Live views of Adam's first and second moment for one range. They exist after the first update."""
        state = self.adam.state[owned.tensor]
        return {kind: owned.view(state[kind]) for kind in MOMENTS}

    def restore_moments(self, read: Any, updates: int) -> None:
        """Fills Adam's state: `read(name, kind, start, end)` gives flat float32 moments; `updates` is Adam's
        count.
        """
        self._set_updates(updates)
        if not updates:
            return
        in_tensor = isinstance(self.adam, torch.optim.AdamW)
        for part in self.ranges:
            state = self.adam.state[part.tensor]
            if not state:
                state["step"] = (
                    torch.tensor(float(updates), device=part.tensor.device) if in_tensor else updates
                )
                for kind in MOMENTS:
                    state[kind] = torch.zeros_like(part.tensor, requires_grad=False)
            for kind, view in self.moments(part).items():
                view.copy_(read(part.name, kind, part.start, part.start + part.length))

    def memory(self) -> dict[str, int]:
        """Bytes on this worker of Adam's two moments, and of float32 masters kept beside the parameters."""
        moments = sum(
            s[kind].numel() * s[kind].element_size()
            for s in self.adam.state.values()
            for kind in MOMENTS
            if kind in s
        )
        masters = {id(part.tensor): part.tensor for part in self.ranges} if self.has_masters() else {}
        return {
            "optimizer_bytes": moments,
            "master_weight_bytes": sum(t.numel() * t.element_size() for t in masters.values()),
        }

    @abstractmethod
    def has_masters(self) -> bool:
        """Whether the weights that Adam moves are kept beside the parameters."""


def component_of(name: str) -> str:
    """The component of a parameter: the part of its name before the first dot."""
    return name.partition(".")[0]
