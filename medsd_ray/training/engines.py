"""The engine of a run's ZeRO stage."""

from __future__ import annotations

import torch
from torch import nn

from medsd_ray.spec.run import RunSpec
from medsd_ray.training.engine import Engine


def build_engine(
    module: nn.Module, run: RunSpec, peaks: dict[str, float], micro_batch_size: int, device: torch.device
) -> Engine:
    """Hands `module` to its engine; all workers call it, with what `Engine` takes."""
    if run.training.zero_stage == 0:
        from medsd_ray.training.replicated_engine import ReplicatedEngine

        return ReplicatedEngine(module, run, peaks, device)
    from medsd_ray.training.zero_engine import ZeroEngine  # it imports DeepSpeed, which takes seconds

    return ZeroEngine(module, run, peaks, micro_batch_size, device)
