"""Sample images while a run goes on, as the run's stage draws them.

They show the moving average, which is what generation will use. Worker 0 puts it together from all workers'
pieces, into a copy of the base model, and draws; so it works at every ZeRO stage and with every method.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from medsd_ray.data.dataset import ShardedDataset
from medsd_ray.generation.png import NOTICE, encode_png
from medsd_ray.models.components import Components
from medsd_ray.models.load import load_components
from medsd_ray.models.methods.registry import adaptation
from medsd_ray.runs.fragments import Piece, assemble
from medsd_ray.runs.names import sample_image
from medsd_ray.spec.run import RunSpec
from medsd_ray.storage import Storage
from medsd_ray.training.collectives import Collectives
from medsd_ray.training.ema import Ema
from medsd_ray.training.engine import Engine, OwnedRanges
from medsd_ray.training.stages.registry import stage_of


class SampleWriter:
    """Puts the model together and writes its samples. `pieces` are those of all workers, by parameter;
    `sample_size` is the height and width of the latents that the run is trained on, where it is on latents.
    """

    def __init__(
        self,
        run: RunSpec,
        engine: Engine,
        owned_ranges: OwnedRanges,
        ema: Ema | None,
        pieces: dict[str, list[Piece]],
        collectives: Collectives,
        sample_size: tuple[int, int] | None,
    ):
        self.run, self.engine, self.collectives = run, engine, collectives
        self.owned_ranges, self.ema, self.pieces = owned_ranges, ema, pieces
        self.sample_size = sample_size
        self._base: Components | None = None

    def save(self, output: Storage, step: int, dataset: ShardedDataset) -> None:
        """Writes samples/step-XXXXXXXX/00.png, ...; all workers call it. The stage may show images of
        `dataset`.
        """
        weights = self._gather()
        if weights is None:
            return
        images, texts = stage_of(self.run).draw_samples(self._model(weights), self.run, dataset)
        for index, (image, text) in enumerate(zip(images, texts, strict=True)):
            notes = {
                "prompt": text,
                "seed": str(self.run.seed),
                "index": str(index),
                "step": str(step),
                "notice": NOTICE,
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

    def _model(self, weights: dict[str, Tensor]) -> Components:
        """The whole model with these weights merged into it, on this worker's device."""
        if self._base is None:
            self._base = load_components(self.run.model)
            if self.run.objective.prediction_type:
                self._base.scheduler.register_to_config(prediction_type=self.run.objective.prediction_type)
            if self.sample_size:
                self._base.sample_size = self.sample_size
        components = copy.deepcopy(self._base)  # a method may merge its weights into the base's own
        for name in self.run.components.trained:
            prefix, settings = f"{name}.", getattr(self.run.components, name)
            own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            adaptation(name, settings).merge(components, name, settings, own)
        for module in components.modules().values():
            module.to(self.collectives.device)
        return components
