"""Validation loss on fixed samples, noise and timesteps: the same figure for the same weights in every run,
on any number of workers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medsd_ray.data.dataset import Dataset
from medsd_ray.data.loader import batches
from medsd_ray.runs.checkpoints import VALIDATION
from medsd_ray.training.averaged_weights import AveragedWeights
from medsd_ray.training.collectives import Collectives
from medsd_ray.training.device_batches import to_device
from medsd_ray.training.engine import Engine
from medsd_ray.training.stages.stage import StageModule

SAMPLES_AT_MOST = 256


class Validation:
    """The loss of the weights that generation uses, which are their moving average where the run has one,
    over the first samples of the validation split.
    """

    def __init__(
        self,
        dataset: Dataset,
        stage: StageModule,
        engine: Engine,
        weights: AveragedWeights,
        collectives: Collectives,
        micro_batch_size: int,
    ):
        self.dataset, self.stage, self.engine, self.collectives = dataset, stage, engine, collectives
        self.weights, self.micro = weights, micro_batch_size
        self.count = min(dataset.samples, SAMPLES_AT_MOST)
        self.figures: dict[str, float] = {}
        """What the last `loss` measured beside it, by name; nothing where the run measures nothing else."""

    def about(self) -> dict[str, Any]:
        """What the loss is of, as result.json has it."""
        return {
            "kind": VALIDATION,
            "samples": self.count,
            "weights": "moving average" if self.weights.ema else "as trained",
            "objective": self.stage.validated,
        }

    def loss(self) -> float:
        """The mean loss over the samples; all workers call it."""
        with self.weights.in_place():
            return self._mean_loss()

    @torch.no_grad()
    def _mean_loss(self) -> float:
        modes = {module: module.training for module in self.stage.modules()}
        self.stage.eval()
        total = torch.zeros(2, dtype=torch.float64)
        rows: dict[int, Tensor] = {}
        per_step = self.micro * self.collectives.world_size
        steps = -(-self.count // per_step)
        for (sample,) in batches(
            self.dataset,
            first_step=0,
            last_step=steps,
            global_batch_size=per_step,
            micro_batch_size=self.micro,
            rank=self.collectives.rank,
            world_size=self.collectives.world_size,
        ):
            wanted = sample["positions"] < self.count
            # All workers make as many forward passes, as ZeRO 3 needs; one that is left with no sample
            # discards it.
            chosen = wanted if wanted.any() else torch.arange(len(wanted)) == 0
            batch = self.stage.prepare({k: v[chosen] for k, v in sample.items()}, "validation")
            # Without gradients, and with fewer samples in the last batch, all would be compiled again.
            with torch.compiler.set_stance("force_eager"):
                loss = self.engine(to_device(batch, self.collectives.device))
            if wanted.any():
                count = int(wanted.sum())
                total += torch.tensor([float(loss) * count, count], dtype=torch.float64)
                if self.stage.rows is not None:
                    own = self.stage.rows.double().cpu()
                    rows |= zip(sample["positions"][chosen].tolist(), own, strict=True)
        for module, mode in modes.items():
            module.training = mode
        loss_sum, count = self.collectives.sum(total).tolist()
        self.figures = self._figures(rows)
        return loss_sum / count

    def _figures(self, rows: dict[int, Tensor]) -> dict[str, float]:
        """The stage's figures of all workers' rows, by position, in the order of these."""
        together = {at: row for part in self.collectives.all_gather(rows) for at, row in part.items()}
        if not together:
            return {}
        self.stage.rows = None
        return self.stage.figures(torch.stack([together[at] for at in sorted(together)]))
