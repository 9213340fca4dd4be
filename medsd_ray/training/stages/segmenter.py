"""A segmenter of images by one of their masks: what a batch is made of, and its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medsd_ray.data.dataset import Dataset
from medsd_ray.data.targets import MaskTarget
from medsd_ray.models.pixels import to_uint8
from medsd_ray.training.checked_run import CheckedRun
from medsd_ray.training.stages import kinds
from medsd_ray.training.stages.task import SHOWN, TaskStage
from medsd_ray.training.task_figures import Figures, mask_figures, mask_rows
from medsd_ray.training.task_objective import segmentation_loss

if TYPE_CHECKING:
    from medsd_ray.models.networks.task_network import TaskModel


class SegmenterStage(TaskStage):
    """The network's first output is the background, the others are the classes, in their order."""

    kind = kinds.SEGMENTER
    name = "segmenter"

    def __init__(self, model: TaskModel, checked: CheckedRun):
        super().__init__(model, checked)
        assert checked.run.segmenter
        self.settings = checked.run.segmenter
        missing_is_background = self.settings.missing == "background"
        self.targets = MaskTarget(self.settings.mask, len(self.meta.classes), missing_is_background)

    @classmethod
    def draw_samples(
        cls, model: TaskModel, checked: CheckedRun, dataset: Dataset
    ) -> tuple[np.ndarray, list[str]]:
        """The first images of `dataset`, (N, H, 3W, 3): each image, its mask, and what the network gives."""
        assert checked.task
        samples = [dataset.sample_at(position) for position in range(SHOWN)]
        pixels = torch.stack([sample["pixel_values"] for sample in samples])
        highest = len(checked.task.classes)
        masks = [torch.stack([sample["mask"] for sample in samples]), cls.predicted(model, pixels).argmax(1)]
        shown = [(mask.float() / highest * 2 - 1)[:, None].expand(-1, 3, -1, -1) for mask in masks]
        images = to_uint8(torch.cat([pixels, *shown], dim=-1)).numpy()
        return images, [f"an image, its {', '.join(checked.task.classes)}, and the network's"] * SHOWN

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The mean loss of a prepared batch; a scalar, float32."""
        logits = self.logits(batch)
        if not self.training:
            self.rows = mask_rows(logits, batch["mask"])
        return segmentation_loss(logits, batch["mask"], self.settings)

    def figures(self, rows: Tensor) -> Figures:
        """See `StageModule.figures`."""
        return mask_figures(rows)
