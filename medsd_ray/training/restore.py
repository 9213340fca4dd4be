"""From a checkpoint back to a running engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from medsd_ray.errors import InputError
from medsd_ray.runs.checkpoint_reader import CheckpointReader, choose_checkpoint
from medsd_ray.runs.names import checkpoint_folder
from medsd_ray.storage import Storage
from medsd_ray.training.checked_run import CheckedRun
from medsd_ray.training.checkpoint_writer import drop_unusable
from medsd_ray.training.collectives import Collectives
from medsd_ray.training.ema import Ema
from medsd_ray.training.engine import Engine, OwnedRanges
from medsd_ray.training.resume import check_same_run
from medsd_ray.training.stages.stage import StageModule


def newest_usable(
    checked: CheckedRun, output: Storage, folder: Path, collectives: Collectives, warn: Callable[[str], None]
) -> CheckpointReader | None:
    """The checkpoint to go on from, the same at all workers; None at the start of a run.

    Worker 0 chooses, checks every file, and deletes what an earlier attempt left half-done or after it.
    Raises InputError where it is of another run.
    """
    found, failure = None, None
    if collectives.rank == 0:
        try:
            found = choose_checkpoint(output, folder, warn)
            if found:
                check_same_run(checked, found.description, found.store.url)
            drop_unusable(output, found.description["step"] if found else 0)
        except InputError as error:
            failure = str(error)
    step, failure = collectives.broadcast((found and found.description["step"], failure))
    if failure:
        raise InputError(failure)
    if step is None:
        return None
    return found or CheckpointReader(output.child(checkpoint_folder(step)), folder)


def load_weights(stage: StageModule, reader: CheckpointReader) -> None:
    """Puts the checkpoint's weights into a stage, before an engine shards it. The optimizer's copies follow
    from them.
    """
    trained = {name: p for name, p in stage.named_parameters() if p.requires_grad}
    if trained.keys() != reader.shapes.keys():
        raise InputError(
            f"{reader.store.url}: its trained parameters are not this run's; choose another output"
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(reader.parameter(name, "weight"))


def restore(engine: Engine, owned_ranges: OwnedRanges, ema: Ema | None, reader: CheckpointReader) -> int:
    """Restores moments, moving average and loss scale; the weights were there before. Returns the step to go
    on at.
    """
    description = reader.description
    engine.restore_moments(reader.read, description["updates"])
    engine.loss_scale.restore(*description["loss_scale"])
    if ema:
        kind = "ema" if description["ema"] else "weight"
        for (piece, _), average in zip(owned_ranges, ema.averages, strict=True):
            average.copy_(reader.read(piece.name, kind, piece.start, piece.end))
    return description["step"]
