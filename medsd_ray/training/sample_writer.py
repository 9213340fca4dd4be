"""Sample images while a run goes on, as the run's stage draws them.

They show the moving average, which is what generation will use. Worker 0 puts it together from all workers'
pieces, into a copy of the base model, and draws; so it works at every ZeRO stage and with every method.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from medsd_ray.data.dataset import Dataset
from medsd_ray.generation.png import NOTICE, encode_png
from medsd_ray.runs.fragments import Piece, assemble
from medsd_ray.runs.names import sample_image
from medsd_ray.storage import Storage
from medsd_ray.training.checked_run import CheckedRun
from medsd_ray.training.collectives import Collectives
from medsd_ray.training.ema import Ema
from medsd_ray.training.engine import Engine, OwnedRanges
from medsd_ray.training.stages.registry import stage_of
from medsd_ray.training.stages.stage import Model

NOT_GENERATED = "research use only: it shows an image of the data that the run is trained or validated on"


class SampleWriter:
    """Puts the model together and writes its samples. `pieces` are those of all workers, by parameter."""

    def __init__(
        self,
        checked: CheckedRun,
        engine: Engine,
        owned_ranges: OwnedRanges,
        ema: Ema | None,
        pieces: dict[str, list[Piece]],
        collectives: Collectives,
    ):
        self.checked, self.stage = checked, stage_of(checked.run)
        self.engine, self.collectives = engine, collectives
        self.owned_ranges, self.ema, self.pieces = owned_ranges, ema, pieces
        self._base: Model | None = None

    def save(self, output: Storage, step: int, dataset: Dataset) -> None:
        """Writes samples/step-XXXXXXXX/00.png, ...; all workers call it. The stage may show images of
        `dataset`.
        """
        weights = self._gather()
        if weights is None:
            return
        images, texts = self.stage.draw_samples(self._model(weights), self.checked, dataset)
        for index, (image, text) in enumerate(zip(images, texts, strict=True)):
            notes = {
                "prompt": text,
                "seed": str(self.checked.run.seed),
                "index": str(index),
                "step": str(step),
                "notice": NOTICE if self.stage.kind.shards == "latent" else NOT_GENERATED,
            }
            output.write(sample_image(step, index), encode_png(image, notes))

    def _gather(self) -> dict[str, Tensor] | None:
        """At worker 0 parameter name -> tensor, on the CPU."""
        averages = (
            self.ema.averages if self.ema else [owned.view(owned.tensor) for _, owned in self.owned_ranges]
        )
        mine = {piece: average.cpu() for (piece, _), average in zip(self.owned_ranges, averages, strict=True)}
        parts = self.collectives.gather(mine)
        if parts is None:
            return None
        by_piece = {piece: tensor for part in parts for piece, tensor in part.items()}
        return {
            name: assemble(
                self.pieces[name], 0, torch.Size(shape).numel(), lambda p, lo, hi: by_piece[p][lo:hi]
            ).view(shape)
            for name, shape in self.engine.shapes.items()
        }

    def _model(self, weights: dict[str, Tensor]) -> Model:
        """The whole model with these weights merged into it, on this worker's device."""
        if self._base is None:
            self._base = self.stage.load_base(self.checked)
        # A copy, as weights may be merged into the base's own.
        model = self.stage.merge(copy.deepcopy(self._base), self.checked, weights)
        for module in model.modules().values():
            module.to(self.collectives.device)
        return model
