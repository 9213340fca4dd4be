"""DeepSpeed's ZeRO, stages 1 to 3: what it divides among the workers, and where it keeps what a checkpoint
holds.

What DeepSpeed does: half-precision weights over float32 masters, gradient reduction and accumulation,
sharding, offload, clipping. It reads the gradient's norm on the host once a step, to know whether it is
finite; nothing else in a step waits for the device.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from medsd_ray.spec.run import RunSpec
from medsd_ray.spec.training import Training
from medsd_ray.training.engine import Engine, LossScale, ParameterRange, component_of


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


def effective_stage(training: Training, accumulation: int) -> int:
    """The stage that DeepSpeed is asked for. In bf16 with several micro batches it would serve stage 1 by an
    optimizer of another kind (BF16_Optimizer, whole gradients on each worker); stage 2 divides the same and
    the gradients too.
    """
    assert training.zero_stage is not None
    return (
        2
        if (training.zero_stage, training.precision) == (1, "bf16") and accumulation > 1
        else training.zero_stage
    )


def deepspeed_config(
    training: Training, micro_batch_size: int, world_size: int, trainable: int
) -> dict[str, Any]:
    """DeepSpeed's configuration for a run; `trainable` is the number of trained parameters."""
    # Buckets that hold all gradients of a small model at once cost one reduction a step; large ones stay
    # bounded.
    bucket = max(min(trainable, 200_000_000), 1_000_000)
    accumulation = training.global_batch_size // (micro_batch_size * world_size)
    stage = effective_stage(training, accumulation)
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": 2 * bucket,
        "overlap_comm": False,
    }
    if stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": min(bucket, 50_000_000),
            "stage3_param_persistence_threshold": 100_000,
        }
    if training.offload.optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if training.offload.parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    config: dict[str, Any] = {
        "train_batch_size": training.global_batch_size,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": training.gradient_clipping or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }
    if training.precision in ("bf16", "fp16"):
        config[training.precision] = {"enabled": True}
        # A sum of half-precision gradients loses the small ones.
        if accumulation > 1:
            config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


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


class ZeroEngine(Engine):
    """See `Engine`."""

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
        super().__init__(module, run, peaks, device)
        deepspeed = _import_deepspeed(device)
        import torch.distributed as dist

        # One group of parameters a component, as each has its own learning rate.
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for n, p in named if component_of(n) == component], "lr": peak}
            for component, peak in peaks.items()
        ]
        half = self.dtype is not torch.float32
        # DeepSpeed makes its masters of the half-precision weights, which would round them.
        float32 = {name: p.detach().to("cpu", copy=True) for name, p in named} if half else {}

        # DeepSpeed flattens with its own process group; it takes over the one that Ray Train (or a test) has
        # made.
        deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
        config = deepspeed_config(
            self.training, micro_batch_size, self.world_size, sum(p.numel() for _, p in named)
        )
        self.stage: int = config["zero_optimization"]["stage"]
        self.deepspeed, optimizer, *_ = deepspeed.initialize(
            model=module,
            optimizer=build_optimizer(groups, self.training, device),  # type: ignore[arg-type]
            config=config,
            dist_init_required=False,
        )
        self.zero = cast(ZeroOptimizer, optimizer)
        self.adam = self.zero.optimizer
        self.ranges = self._find_ranges()
        for part in self.ranges if half else ():
            part.view(part.tensor).copy_(float32[part.name].view(-1)[part.start : part.start + part.length])

        # State of the loop.
        self.loss_scale = LossScale(self.training, torch.device("cpu"))  # DeepSpeed takes a number
        self._updates = self._skipped = 0

    @property
    def module(self) -> nn.Module:
        return cast(nn.Module, self.deepspeed.module)

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        return self.deepspeed(batch)

    def step(self, micro_batches: Sequence[dict[str, Tensor]], factor: float) -> Tensor:
        for group, peak in zip(self.zero.param_groups, self.peaks.values(), strict=True):
            group["lr"] = peak * factor
        # 1 but in fp16. Else DeepSpeed would scale by its own rule, which no checkpoint of ours holds.
        self.zero.override_loss_scale(self.loss_scale.scale.item())
        losses = []
        for batch in micro_batches:
            loss = self.deepspeed(batch)
            self.deepspeed.backward(loss)  # divides by the micro batches of a step, averages over workers
            losses.append(loss.detach())
            self.deepspeed.step()
        self.norm, applied = self.zero._global_grad_norm, not self.zero.overflow
        self._updates += applied
        self._skipped = 0 if applied else self._skipped + 1
        if self.training.precision == "fp16":
            self.loss_scale.update(torch.tensor(float(not applied)))
        return torch.stack(losses)

    def put(self, name: str, values: Tensor) -> None:
        if self.stage < 3:
            return super().put(name, values)
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([self.module.get_parameter(name)], modifier_rank=0):
            super().put(name, values)

    def updates(self) -> int:
        return self._updates

    def skipped(self) -> int:
        return self._skipped

    def _set_updates(self, updates: int) -> None:
        self._updates = updates

    def has_masters(self) -> bool:
        return self.stage < 3 or self.dtype is not torch.float32 or self.training.offload.optimizer

    def _find_ranges(self) -> list[ParameterRange]:
        ranges = []
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad and (found := self._range_of(name, parameter)) is not None:
                ranges.append(found)
        return ranges

    def _range_of(self, name: str, parameter: Any) -> ParameterRange | None:
        """This worker's range of a parameter, to which DeepSpeed has tied notes of its own; None where others
        have all of it.
        """
        if self.stage < 3:
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


def _import_deepspeed(device: torch.device) -> Any:
    # DeepSpeed reads its accelerator from the environment when it is first imported.
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    # Its shared-memory all-reduce is for inference; unasked it would compile for a minute on a CPU's
    # first run.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if device.type == "cpu":
        # It asks whether oneDNN has fp16 kernels; torch has its own where oneDNN has none.
        accelerator: Any = get_accelerator()
        accelerator.is_fp16_supported = lambda: True
    return deepspeed
