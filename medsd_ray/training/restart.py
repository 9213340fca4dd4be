"""From a checkpoint back to a running engine, and from the engine to what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medsd_ray.errors import InputError
from medsd_ray.storage import Storage
from medsd_ray.training.checkpoint import FORMAT, CheckpointReader, choose_checkpoint, drop_unusable, rank_file, step_folder
from medsd_ray.training.ema import Ema
from medsd_ray.training.engine import MOMENTS, Engine, Held
from medsd_ray.training.fragments import Piece
from medsd_ray.training.job import Job, check_same_run
from medsd_ray.training.stages import Stage
from medsd_ray.training.team import Team

Owned = list[tuple[Piece, Held]]


def newest_usable(job: Job, output: Storage, folder: Path, team: Team, warn: Callable[[str], None]) -> CheckpointReader | None:
    """The checkpoint to go on from, the same at all workers; None at the start of a run.

    Worker 0 chooses, checks every file, and deletes what an earlier attempt left half-done or after it. Raises
    InputError where it is of another run.
    """
    found, failure = None, None
    if team.rank == 0:
        try:
            found = choose_checkpoint(output, folder, warn)
            if found:
                check_same_run(job, found.description, found.store.url)
            drop_unusable(output, found.description["step"] if found else 0)
        except InputError as error:
            failure = str(error)
    step, failure = team.from_first((found and found.description["step"], failure))
    if failure:
        raise InputError(failure)
    if step is None:
        return None
    return found or CheckpointReader(output.child(step_folder(step)), folder)


def load_weights(stage: Stage, reader: CheckpointReader) -> None:
    """Puts the checkpoint's weights into a stage, before an engine shards it. The optimizer's copies follow from them."""
    trained = {name: p for name, p in stage.named_parameters() if p.requires_grad}
    if trained.keys() != reader.shapes.keys():
        raise InputError(f"{reader.store.url}: its trained parameters are not this run's; choose another output")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(reader.parameter(name, "weight"))


def restore(engine: Engine, owned: Owned, ema: Ema | None, reader: CheckpointReader) -> int:
    """Restores moments, moving average and loss scale; the weights were there before. Returns the step to go on at."""
    description = reader.description
    engine.restore_moments(reader.read, description["updates"])
    engine.loss_scale.scale, engine.loss_scale.good_steps = description["loss_scale"]
    if ema:
        kind = "ema" if description["ema"] else "weight"
        for (piece, _), average in zip(owned, ema.averages, strict=True):
            average.copy_(reader.read(piece.name, kind, piece.start, piece.end))
    return description["step"]


def snapshot(engine: Engine, owned: Owned, ema: Ema | None) -> dict[str, dict[str, Tensor]]:
    """File name -> tensor name -> a copy on the CPU, of all that this worker owns. The only time that training waits."""
    rank = engine.rank
    weights: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    for index, (piece, held) in enumerate(owned):
        weights[piece.key("weight")] = _copy(held.view(held.tensor))
        if ema:
            weights[piece.key("ema")] = _copy(ema.averages[index])
        live = engine.moments(held) if engine.updates else {kind: torch.zeros(held.length) for kind in MOMENTS}
        moments |= {piece.key(kind): _copy(tensor) for kind, tensor in live.items()}
    return {rank_file(rank, "weight"): weights, rank_file(rank, MOMENTS[0]): moments}


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)


def describe(
    job: Job, engine: Engine, ema: bool, pieces: dict[str, list[Piece]], step: int, validation_loss: float | None,
    prediction_type: str | None, scaling_factor: float | None,
) -> dict[str, Any]:  # fmt: skip
    """checkpoint.json: the map of pieces, and all that a resumed run or a reader of the weights must know."""
    run = job.run
    return {
        "format": FORMAT,
        "step": step,
        "position": step * run.training.global_batch_size,
        "updates": engine.updates,
        "loss_scale": [engine.loss_scale.scale, engine.loss_scale.good_steps],
        "ema": ema,
        "validation_loss": validation_loss,
        "model": job.model,
        "prediction_type": prediction_type,
        "scaling_factor": scaling_factor,
        "components": {name: getattr(run.components, name).method.value for name in run.components.trained},
        "world_size": engine.world_size,
        "zero_stage": run.training.zero_stage,
        "fingerprints": job.fingerprints,
        "spec": run.model_dump(mode="json"),
        "fragments": {
            name: {"shape": list(shape), "pieces": [[p.start, p.length, p.rank] for p in pieces[name]]}
            for name, shape in engine.shapes.items()
        },
    }
