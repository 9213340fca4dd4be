"""What a checkpoint holds of a running engine: copies of tensors, and the description that says what they
are.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from medsd_ray.addresses import shown
from medsd_ray.models.drift import drift_of
from medsd_ray.runs.checkpoints import FORMAT, VALIDATION
from medsd_ray.runs.fragments import Piece
from medsd_ray.runs.names import optimizer_file, weights_file
from medsd_ray.spec.shown_addresses import without_local_paths
from medsd_ray.training.checked_run import CheckedRun
from medsd_ray.training.ema import Ema
from medsd_ray.training.engine import MOMENTS, Engine, OwnedRanges


class Snapshot:
    """Copies on the CPU of all that this worker owns, in memory that is kept from one checkpoint to the next:
    fresh pages cost as much as the copy, and from a GPU the way into pinned memory is the fast one.
    """

    def __init__(self, engine: Engine, owned_ranges: OwnedRanges, ema: Ema | None):
        self.engine, self.owned_ranges, self.ema = engine, owned_ranges, ema
        self._buffers: dict[str, Tensor] = {}

    def take(self) -> dict[str, dict[str, Tensor]]:
        """File name -> tensor name -> copy, float32, flat. The only time that training waits. The copies of
        the snapshot before are overwritten: whoever writes them has to be done.
        """
        weights: dict[str, Tensor] = {}
        moments: dict[str, Tensor] = {}
        updated = self.engine.updates() > 0
        for index, (piece, owned) in enumerate(self.owned_ranges):
            weights |= self._copy(piece.key("weight"), owned.view(owned.tensor))
            if self.ema:
                weights |= self._copy(piece.key("ema"), self.ema.averages[index])
            live = (
                self.engine.moments(owned)
                if updated
                else {kind: torch.zeros(owned.length) for kind in MOMENTS}
            )
            for kind, tensor in live.items():
                moments |= self._copy(piece.key(kind), tensor)
        if self.engine.device.type == "cuda":
            torch.cuda.synchronize(self.engine.device)
        return {
            weights_file(self.engine.rank): weights,
            optimizer_file(self.engine.rank): moments,
        }

    def _copy(self, key: str, tensor: Tensor) -> dict[str, Tensor]:
        if key not in self._buffers:
            self._buffers[key] = torch.empty(
                tensor.shape, dtype=torch.float32, pin_memory=self.engine.device.type == "cuda"
            )
        return {key: self._buffers[key].copy_(tensor.detach(), non_blocking=True)}


def checkpoint_description(
    checked: CheckedRun,
    engine: Engine,
    ema: bool,
    pieces: dict[str, list[Piece]],
    step: int,
    validation_loss: float | None,
    prediction_type: str | None,
    scaling_factor: float | None,
) -> dict[str, Any]:
    """checkpoint.json: the map of pieces, and all that a resumed run or a reader of the weights must know."""
    run = checked.run
    return {
        "format": FORMAT,
        "step": step,
        "position": step * run.training.global_batch_size,
        "updates": engine.updates(),
        "loss_scale": list(engine.loss_scale.state()),
        "ema": ema,
        "validation_loss": validation_loss,
        "validation": None if validation_loss is None else VALIDATION,
        "model": shown(checked.model),
        "prediction_type": prediction_type,
        "drift": asdict(drift_of(run.objective.drift)) if checked.latents else None,
        "scaling_factor": scaling_factor,
        "classes": list(checked.task.classes) if checked.task else None,
        "image_size": checked.task.size if checked.task else None,
        "fit": checked.task.fit if checked.task else None,
        "sample_size": list(checked.latents.sample_size) if checked.latents else None,
        "conditions": checked.conditions.settings.model_dump(mode="json") if checked.conditions else None,
        "components": run.methods,
        "world_size": engine.world_size,
        "zero_stage": run.training.zero_stage,
        "fingerprints": checked.fingerprints,
        "spec": without_local_paths(run.model_dump(mode="json")),
        "fragments": {
            name: {"shape": list(shape), "pieces": [[p.start, p.length, p.rank] for p in pieces[name]]}
            for name, shape in engine.shapes.items()
        },
    }
