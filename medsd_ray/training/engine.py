"""DeepSpeed behind a few verbs: forward and backward, step, and the pieces of weights and moments that this
worker owns.

Parameters are float32; half precision is autocast, so that every ZeRO stage has one form of weights to save,
shard and restore. What DeepSpeed does: gradient reduction and accumulation, ZeRO's sharding, offload,
clipping.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from medsd_ray.runs.fragments import Piece, even_share
from medsd_ray.spec.run import RunSpec, Training

MOMENTS = ("exp_avg", "exp_avg_sq")
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class ZeroOptimizer(Protocol):
    """What medsd uses of DeepSpeed's ZeRO optimizers, whose classes have no common type. The names are
    DeepSpeed's own and not documented: see docs/decisions.md.
    """

    optimizer: torch.optim.Optimizer
    """The optimizer beneath, which holds Adam's moments."""
    param_groups: list[dict[str, Any]]
    """The groups of that optimizer, with their learning rates."""
    overflow: bool
    """Whether the last step was left out, as its gradient was not finite."""
    _global_grad_norm: Tensor | float
    """The gradient's norm of the last step, before clipping, over all workers."""
    single_partition_of_fp32_groups: list[Tensor]
    """Stages 1 and 2: this worker's share of each group's float32 weights, flat."""
    fp32_partitioned_groups_flat: list[Tensor]
    """Stage 3: the same."""
    grad_position: dict[int, tuple[int, int, int]]
    """Stage 3: a parameter's number -> group, offset in the group's share, elements of each worker's part."""

    def override_loss_scale(self, loss_scale: float) -> None:
        """The factor of the loss from now on, in place of DeepSpeed's own scaling."""
        ...

    def get_param_id(self, param: nn.Parameter) -> int:
        """Stage 3: the number of a parameter."""
        ...


@dataclass(frozen=True)
class ParameterRange:
    """One parameter, or this worker's range of it, as it lies in memory.

    `tensor` is what the optimizer knows (a parameter, or DeepSpeed's flat partition); elements [start, start
    + length) of the parameter are its elements [offset, offset + length).
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


@dataclass
class LossScale:
    """Dynamic loss scaling for fp16 (Micikevicius et al. 2018, arXiv 1710.03740, sec. 3.2). 1 for other
    precisions.
    """

    scale: float = 1.0
    good_steps: int = 0
    window: int = 1000

    def update(self, overflow: bool) -> None:
        if overflow:
            self.scale, self.good_steps = max(self.scale / 2, 1.0), 0
        else:
            self.good_steps += 1
            if self.good_steps % self.window == 0:
                self.scale *= 2


def autocast(training: Training, device: torch.device):
    """The context of a forward pass in the run's precision."""
    if training.precision == "fp32":
        return contextlib.nullcontext()
    # ZeRO 3 frees a parameter after its use; a cached half-precision copy of it would stay.
    return torch.autocast(device.type, HALF[training.precision], cache_enabled=training.zero_stage < 3)


def deepspeed_config(
    training: Training, micro_batch_size: int, world_size: int, trainable: int
) -> dict[str, Any]:
    """DeepSpeed's configuration for a run; `trainable` is the number of trained parameters."""
    # Buckets that hold all gradients of a small model at once cost one reduction a step; large ones stay
    # bounded.
    bucket = max(min(trainable, 200_000_000), 1_000_000)
    zero: dict[str, Any] = {
        "stage": training.zero_stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": 2 * bucket,
        "overlap_comm": False,
    }
    if training.zero_stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": min(bucket, 50_000_000),
            "stage3_param_persistence_threshold": 100_000,
        }
    if training.offload.optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if training.offload.parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_batch_size": training.global_batch_size,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": training.global_batch_size // (micro_batch_size * world_size),
        # At stage 0 DeepSpeed clips without telling the norm: `Engine.step` does both there.
        "gradient_clipping": training.gradient_clipping or 0.0 if training.zero_stage else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


def build_optimizer(
    groups: list[dict[str, Any]], training: Training, device: torch.device
) -> torch.optim.Optimizer:
    """torch's AdamW, fused; with offload from a GPU DeepSpeed's CPU kernel, where that builds."""
    settings: dict[str, Any] = {"betas": training.adam_betas, "weight_decay": training.weight_decay}
    if training.offload.optimizer and device.type == "cuda":
        try:
            from deepspeed.ops.adam import DeepSpeedCPUAdam

            return DeepSpeedCPUAdam(groups, adamw_mode=True, **settings)
        except Exception as error:  # no compiler, or another CUDA than torch's
            logging.getLogger(__name__).warning(
                "DeepSpeed's CPU Adam does not build here (%s); torch's AdamW serves", error
            )
    return torch.optim.AdamW(groups, fused=True, **settings)


class Engine:
    """A module whose trained parameters are those with `requires_grad`, under DeepSpeed.

    `peaks` gives each component (the part of a parameter's name before the first dot) its peak learning rate.
    Call it with a batch for the mean loss of that batch.
    """

    def __init__(
        self,
        module: nn.Module,
        run: RunSpec,
        peaks: dict[str, float],
        micro_batch_size: int,
        device: torch.device,
    ):
        """Hands the module to DeepSpeed; torch.distributed is up, and all workers call it.

        Args:
            module: What is trained, on `device`, float32.
            run: The run, for its training section.
            peaks: Component -> peak learning rate.
            micro_batch_size: Samples of a forward pass on this worker.
            device: This worker's device.
        """
        # DeepSpeed reads its accelerator from the environment when it is first imported.
        os.environ.setdefault("DS_ACCELERATOR", device.type)
        import deepspeed
        import torch.distributed as dist

        # Its shared-memory all-reduce is for inference; unasked it would compile for a minute on a CPU's
        # first run.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)

        # The run as this worker sees it.
        training = run.training
        self.training, self.device, self.peaks = training, device, peaks
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.accumulation = training.global_batch_size // (micro_batch_size * self.world_size)
        self.shapes = {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}

        # One group of parameters a component, as each has its own learning rate.
        groups = [
            {
                "params": [
                    p for n, p in module.named_parameters() if p.requires_grad and _component(n) == name
                ],
                "lr": peak,
            }
            for name, peak in peaks.items()
        ]
        trainable = sum(p.numel() for group in groups for p in group["params"])

        # DeepSpeed flattens with its own process group; it takes over the one that Ray Train (or a test) has
        # made.
        deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
        engine, optimizer, *_ = deepspeed.initialize(
            model=module,
            optimizer=build_optimizer(groups, training, device),  # type: ignore[arg-type]
            config=deepspeed_config(training, micro_batch_size, self.world_size, trainable),
            dist_init_required=False,
        )
        self.deepspeed = engine
        self.zero = cast(ZeroOptimizer, optimizer) if training.zero_stage else None
        self.adam = self.zero.optimizer if self.zero else cast(torch.optim.Optimizer, optimizer)

        # State of the loop.
        self.loss_scale = LossScale(scale=2.0**16 if training.precision == "fp16" else 1.0)
        self.ranges = self._find_ranges()
        self.updates = 0
        """Optimizer steps applied: Adam's own count, which a skipped step does not raise."""
        self.norm: Any = None
        self.applied = True

    @property
    def module(self) -> nn.Module:
        """What is trained; at ZeRO stage 3 its parameters are empty between passes."""
        return cast(nn.Module, self.deepspeed.module)

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        """The mean loss of a batch, a scalar, in the run's precision."""
        with autocast(self.training, self.device):
            return self.deepspeed(batch)

    def backward(self, loss: Tensor) -> None:
        """Adds a micro batch's gradient; DeepSpeed divides by the micro batches of a step and averages over
        workers.
        """
        if self.training.precision == "fp16":
            if self.zero:
                self.zero.override_loss_scale(self.loss_scale.scale)
            else:
                loss = loss * self.loss_scale.scale
        self.deepspeed.backward(loss)

    def end_micro_batch(self, factor: float, last: bool) -> None:
        """The `last` micro batch of a step updates the weights, at `factor` times the peak learning rates.

        `norm` is then the gradient's norm before clipping, and `applied` whether the step was: one whose
        gradient is not finite is left out, by all workers alike.
        """
        if not last:
            self.deepspeed.step()
            return
        for group, peak in zip((self.zero or self.adam).param_groups, self.peaks.values(), strict=True):
            group["lr"] = peak * factor
        if self.zero:
            self.deepspeed.step()
            self.norm, self.applied = self.zero._global_grad_norm, not self.zero.overflow
        else:
            self.norm = self._clip()
            self.applied = bool(torch.isfinite(self.norm))
            self.deepspeed.step()
        self.updates += self.applied
        if self.training.precision == "fp16":
            self.loss_scale.update(overflow=not self.applied)

    def _clip(self) -> Tensor:
        """Stage 0: the norm of the reduced gradient; scales the gradient, or drops it where it is not
        finite.
        """
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.loss_scale.scale != 1:
            torch._foreach_mul_(gradients, 1 / self.loss_scale.scale)
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            for parameter in parameters:
                parameter.grad = None
        elif self.training.gradient_clipping:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.training.gradient_clipping, norm)
        return norm

    def _find_ranges(self) -> list[ParameterRange]:
        """All ranges of trained parameters that this worker has the optimizer's state of."""
        ranges = []
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad and (found := self._range_of(name, parameter)) is not None:
                ranges.append(found)
        return ranges

    def _range_of(self, name: str, parameter: Any) -> ParameterRange | None:
        """This worker's range of a parameter, to which DeepSpeed has tied notes of its own; None where others
        have all of it.
        """
        if self.zero is None:
            return ParameterRange(name, 0, parameter.numel(), parameter, 0)
        if self.training.zero_stage < 3:
            if (mapping := parameter._hp_mapping) is None:
                return None
            flat = self.zero.single_partition_of_fp32_groups[mapping.param_group_index]
            at, inside = mapping.lp_fragment_address, mapping.hp_fragment_address
            return ParameterRange(name, at.start, at.numel, flat, inside.start)
        group, offset, size = self.zero.grad_position[self.zero.get_param_id(parameter)]
        start = self.rank * size
        length = min(size, parameter.ds_numel - start)  # the last partition is padded
        if length <= 0:
            return None
        return ParameterRange(name, start, length, self.zero.fp32_partitioned_groups_flat[group], offset)

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

    def moments(self, owned: ParameterRange) -> dict[str, Tensor]:
        """Live views of Adam's first and second moment for one range. They exist after the first update."""
        state = self.adam.state[owned.tensor]
        return {kind: owned.view(state[kind]) for kind in MOMENTS}

    def restore_moments(self, read, updates: int) -> None:
        """Fills Adam's state: `read(name, kind, start, end)` gives flat float32 moments; `updates` is Adam's
        count.
        """
        self.updates = updates
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
        """Bytes on this worker of Adam's two moments, and of float32 master weights kept beside the
        parameters.
        """
        moments = sum(
            s[kind].numel() * s[kind].element_size()
            for s in self.adam.state.values()
            for kind in MOMENTS
            if kind in s
        )
        separate = self.training.zero_stage in (1, 2) or self.training.offload.optimizer
        masters = {id(part.tensor): part.tensor for part in self.ranges} if separate else {}
        return {
            "optimizer_bytes": moments,
            "master_weight_bytes": sum(t.numel() * t.element_size() for t in masters.values()),
        }


def _component(name: str) -> str:
    return name.partition(".")[0]
