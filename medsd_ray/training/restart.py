"""From a checkpoint back to a running engine, and from the engine to what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medsd_ray.errors import InputError
from medsd_ray.runs.checkpoint import FORMAT, CheckpointReader, choose_checkpoint, rank_file, step_folder
from medsd_ray.runs.fragments import Piece
from medsd_ray.storage import Storage
from medsd_ray.training.checkpoint_writer import drop_unusable
from medsd_ray.training.ema import Ema
from medsd_ray.training.engine import MOMENTS, Engine, Held
from medsd_ray.training.job import Job, check_same_run
from medsd_ray.training.stages.build import Stage
from medsd_ray.training.team import Team

Owned = list[tuple[Piece, Held]]


def newest_usable(
    job: Job, output: Storage, folder: Path, team: Team, warn: Callable[[str], None]
) -> CheckpointReader | None:
    """The checkpoint to go on from, the same at all workers; None at the start of a run.

    Worker 0 chooses, checks every file, and deletes what an earlier attempt left half-done or after it.
    Raises InputError where it is of another run.
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


def restore(engine: Engine, owned: Owned, ema: Ema | None, reader: CheckpointReader) -> int:
    """Restores moments, moving average and loss scale; the weights were there before. Returns the step to go
    on at.
    """
    description = reader.description
    engine.restore_moments(reader.read, description["updates"])
    engine.loss_scale.scale, engine.loss_scale.good_steps = description["loss_scale"]
    if ema:
        kind = "ema" if description["ema"] else "weight"
        for (piece, _), average in zip(owned, ema.averages, strict=True):
            average.copy_(reader.read(piece.name, kind, piece.start, piece.end))
    return description["step"]


class Snapshot:
    """Copies on the CPU of all that this worker owns, in memory that is kept from one checkpoint to the next:
    fresh pages cost as much as the copy, and from a GPU the way into pinned memory is the fast one.
    """

    def __init__(self, engine: Engine, owned: Owned, ema: Ema | None):
        self.engine, self.owned, self.ema = engine, owned, ema
        self._buffers: dict[str, Tensor] = {}

    def take(self) -> dict[str, dict[str, Tensor]]:
        """File name -> tensor name -> copy, float32, flat. The only time that training waits. The copies of
        the snapshot before are overwritten: whoever writes them has to be done.
        """
        weights: dict[str, Tensor] = {}
        moments: dict[str, Tensor] = {}
        for index, (piece, held) in enumerate(self.owned):
            weights |= self._copy(piece.key("weight"), held.view(held.tensor))
            if self.ema:
                weights |= self._copy(piece.key("ema"), self.ema.averages[index])
            live = (
                self.engine.moments(held)
                if self.engine.updates
                else {kind: torch.zeros(held.length) for kind in MOMENTS}
            )
            for kind, tensor in live.items():
                moments |= self._copy(piece.key(kind), tensor)
        if self.engine.device.type == "cuda":
            torch.cuda.synchronize(self.engine.device)
        return {
            rank_file(self.engine.rank, "weight"): weights,
            rank_file(self.engine.rank, MOMENTS[0]): moments,
        }

    def _copy(self, key: str, tensor: Tensor) -> dict[str, Tensor]:
        if key not in self._buffers:
            self._buffers[key] = torch.empty(
                tensor.shape, dtype=torch.float32, pin_memory=self.engine.device.type == "cuda"
            )
        return {key: self._buffers[key].copy_(tensor.detach(), non_blocking=True)}


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
