"""A run's Trainer driven step by step: the loop of `Trainer.train`, cut open to be timed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import subject
import torch

from medsd_ray.data.mixture import SourceMix, SourceSplit
from medsd_ray.data.shards import read_index
from medsd_ray.spec.load import parse_run
from medsd_ray.training import checks, worker
from medsd_ray.training.auto_settings import Machine, choose
from medsd_ray.training.checked_run import CheckedRun, LatentMeta, ModelSize
from medsd_ray.training.stages.unet import UnetStage


def join(options: dict[str, Any]) -> None:
    """Makes this process a group of its own. `options` are an Arm's: `folder` and `device`."""
    subject.join_group(options["device"], Path(tempfile.mkdtemp(dir=options["folder"])))


def trainer(values: dict[str, Any], device: str) -> Any:
    """The Trainer of a run's spec; it starts from the newest checkpoint of the run's output."""
    values = values | {"resources": {"use_gpu": device == "cuda"}}
    checked = checks.check_inputs(parse_run(values))
    return worker.Trainer(choose(checked, _machine(device)), torch.device(device), lambda record: None, print)


def trainer_in_memory(values: dict[str, Any], device: str, parts: Any) -> Any:
    """The Trainer of a run over `parts`, a model in memory that is in no folder, and random latents."""
    run = parse_run(values | {"resources": {"use_gpu": device == "cuda"}})
    UnetStage.load = classmethod(lambda cls, checked: _adapted(parts, checked.run))  # type: ignore[method-assign]
    side = parts.unet.config["sample_size"]
    latents = LatentMeta(0.18215, [[0.0]], (side, side))
    size = ModelSize(sum(p.numel() for p in parts.unet.parameters()), 0)
    where = f"{run.data.train}/train"
    train = SourceMix((SourceSplit(where, "train", read_index(where).samples),))
    checked = CheckedRun(run, "random", train, None, latents, {}, size=size)
    return worker.Trainer(choose(checked, _machine(device)), torch.device(device), lambda record: None, print)


def _adapted(parts: Any, run: Any) -> Any:
    from medsd_ray.models.components import Components
    from medsd_ray.models.methods.registry import adapt

    needed: Any = Components(None, None, None, parts.unet, parts.scheduler)  # type: ignore[arg-type]
    adapt(needed, "unet", run.components.unet, run.seed)
    return needed


def _machine(device: str) -> Machine:
    memory = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else 0
    return Machine(int(device == "cuda"), True, memory, psutil.virtual_memory().available)


def stepping(trainer: Any) -> Callable[[], None]:
    """One turn of the loop at each call, without what happens once in many steps (validation, samples,
    checkpoints).
    """
    training = trainer.training
    numbered = enumerate(trainer.steps(), start=trainer.first)

    def step() -> None:
        number, micro_batches = next(numbered)
        trainer.step(number, micro_batches)
        _, to_ray = trainer.signals()
        if (number + 1) % training.log_every == 0:
            trainer.log(number + 1, to_ray)

    return step


def finish(device: str) -> None:
    """Waits for what the GPU has still to do."""
    if device == "cuda":
        torch.cuda.synchronize()
