"""How many samples a forward pass takes: the spec's number, or the largest that fits."""

from __future__ import annotations

import torch

from medsd_ray.data.dataset import Dataset
from medsd_ray.data.loader import batches
from medsd_ray.errors import InputError
from medsd_ray.models.precision import DTYPES
from medsd_ray.spec.run import RunSpec
from medsd_ray.training.collectives import Collectives
from medsd_ray.training.device_batches import to_device
from medsd_ray.training.stages.stage import StageModule


def choose_micro_batch_size(
    run: RunSpec, stage: StageModule, dataset: Dataset, collectives: Collectives
) -> int:
    """Samples of a forward pass: the spec's, else the largest divisor of a worker's share that fits; all
    workers agree.

    On a CPU at most 64. On a GPU a forward and backward pass is tried for each size, until one fits its
    memory.
    """
    training = run.training
    if training.micro_batch_size:
        return training.micro_batch_size
    share = training.global_batch_size // collectives.world_size
    divisors = [size for size in range(share, 0, -1) if share % size == 0]
    if collectives.device.type == "cpu":
        return next(size for size in divisors if size <= 64)
    # Tried in the run's precision, without compiling for each size.
    float32 = {name: p.detach().clone() for name, p in stage.named_parameters()}
    stage.to(collectives.device)
    for parameter in stage.parameters():
        parameter.data = parameter.data.to(DTYPES[training.precision or "fp32"])
    with torch.compiler.set_stance("force_eager"):
        fitting = next((size for size in divisors if _fits(run, stage, dataset, size, collectives)), 0)
    for name, parameter in stage.named_parameters():
        parameter.data = float32[name]
    smallest = -int(collectives.max(-fitting)[0])
    if not smallest:
        raise InputError(
            "not even one sample fits in the GPU's memory; set training.gradient_checkpointing, precision "
            "bf16 or offload"
        )
    return smallest


def _fits(run: RunSpec, stage: StageModule, dataset: Dataset, size: int, collectives: Collectives) -> bool:
    device = collectives.device
    torch.cuda.reset_peak_memory_stats(device)
    try:
        steps = batches(
            dataset,
            first_step=0,
            last_step=1,
            global_batch_size=size,
            micro_batch_size=size,
            rank=0,
            world_size=1,
        )
        for (sample,) in steps:
            stage(stage.largest(to_device(stage.prepare(sample, "train"), device))).backward()
        # The gradients are there now; Adam's moments, the masters and in half precision their float32
        # gradients, 16 bytes a parameter at most, are yet to come.
        to_come = (
            0
            if run.training.offload.optimizer
            else 16 * sum(p.numel() for p in stage.parameters() if p.requires_grad)
        )
        return (
            torch.cuda.max_memory_allocated(device) + to_come
            < 0.92 * torch.cuda.get_device_properties(device).total_memory
        )
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        stage.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
