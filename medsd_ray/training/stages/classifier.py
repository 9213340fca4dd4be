"""A classifier of images by one of their labels: what a batch is made of, and its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medsd_ray.data.dataset import Dataset
from medsd_ray.data.targets import LabelTarget
from medsd_ray.models.pixels import to_uint8
from medsd_ray.training.checked_run import CheckedRun
from medsd_ray.training.stages import kinds
from medsd_ray.training.stages.task import SHOWN, TaskStage
from medsd_ray.training.task_figures import Figures, class_figures, class_rows
from medsd_ray.training.task_objective import balanced_weights, classification_loss

if TYPE_CHECKING:
    from medsd_ray.models.networks.task_network import TaskModel


class ClassifierStage(TaskStage):
    """The network's outputs are the classes, in their order."""

    kind = kinds.CLASSIFIER
    name = "classifier"

    def __init__(self, model: TaskModel, checked: CheckedRun):
        super().__init__(model, checked)
        assert checked.run.classifier
        self.settings = checked.run.classifier
        self.targets = LabelTarget(self.settings.label, self.meta.classes)
        self.class_weights: Tensor | None
        balanced = self.settings.class_weights == "balanced"
        weights = balanced_weights(self.meta.counts) if balanced else None
        self.register_buffer("class_weights", weights, persistent=False)

    @classmethod
    def draw_samples(
        cls, model: TaskModel, checked: CheckedRun, dataset: Dataset
    ) -> tuple[np.ndarray, list[str]]:
        """The first images of `dataset`, with the class that the network gives each."""
        assert checked.task
        pixels = torch.stack([dataset.sample_at(position)["pixel_values"] for position in range(SHOWN)])
        shares = cls.predicted(model, pixels).softmax(1)
        texts = [
            f"{checked.task.classes[int(row.argmax())]}: {100 * float(row.max()):.0f}%" for row in shares
        ]
        return to_uint8(pixels).numpy(), texts

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The mean loss of a prepared batch; a scalar, float32."""
        weights = None if self.class_weights is None else self.class_weights.float()
        logits = self.logits(batch)
        if not self.training:
            self.rows = class_rows(logits, batch["label"])
        return classification_loss(logits, batch["label"], self.settings, weights)

    def figures(self, rows: Tensor) -> Figures:
        """See `StageModule.figures`."""
        return class_figures(rows)
