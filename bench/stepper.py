"""A run's Trainer driven step by step: the loop of `Trainer.train`, cut open to be timed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import subject
import torch

from medsd_ray.data.loader import batches
from medsd_ray.spec.load import parse_run
from medsd_ray.training import checks, worker


def join(options: dict[str, Any]) -> None:
    """Makes this process a group of its own. `options` are an Arm's: `folder` and `device`."""
    subject.join_group(options["device"], Path(tempfile.mkdtemp(dir=options["folder"])))


def trainer(values: dict[str, Any], device: str) -> Any:
    """The Trainer of a run's spec; it starts from the newest checkpoint of the run's output."""
    return worker.Trainer(checks.check_inputs(parse_run(values)), torch.device(device), lambda record: None)


def stepping(trainer: Any) -> Callable[[], None]:
    """One turn of the loop at each call, without what happens once in many steps (validation, samples,
    checkpoints).
    """
    training = trainer.training
    steps = batches(
        trainer.dataset, first_step=trainer.first, last_step=training.max_steps,
        rank=trainer.collectives.rank, world_size=trainer.collectives.world_size,
        global_batch_size=training.global_batch_size, micro_batch_size=trainer.micro,
    )  # fmt: skip
    numbered = enumerate(steps, start=trainer.first)

    def step() -> None:
        began = time.monotonic()
        number, micro_batches = next(numbered)
        norm = trainer.step(number, micro_batches)
        trainer.throughput.add(time.monotonic() - began)
        _, to_ray = trainer.signals()
        if (number + 1) % training.log_every == 0:
            trainer.log(number + 1, norm, to_ray)

    return step


def finish(device: str) -> None:
    """Waits for what the GPU has still to do."""
    if device == "cuda":
        torch.cuda.synchronize()
