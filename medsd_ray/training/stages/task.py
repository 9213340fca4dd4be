"""What the stages of task runs share: a network of a library, on augmented images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from medsd_ray.training.augmentation import augmented
from medsd_ray.training.checked_run import CheckedRun
from medsd_ray.training.stages.stage import StageModule

if TYPE_CHECKING:
    from medsd_ray.models.networks.libraries import Task
    from medsd_ray.models.networks.task_network import TaskModel

SHOWN = 4
"""Sample images of a run."""


class TaskStage(StageModule):
    """A stage of a run with a `classifier` or a `segmenter`."""

    name: ClassVar[Task]
    """The section of the run, which the parameters' names begin with."""
    tokenizer = prediction_type = None

    def __init__(self, model: TaskModel, checked: CheckedRun):
        super().__init__()
        assert checked.run.task and checked.task
        self.settings, self.meta, self.seed = checked.run.task, checked.task, checked.run.seed
        self.add_module(self.name, model.network)

    @property
    def validated(self) -> dict[str, Any]:
        """See `Stage.validated`."""
        return self.settings.model_dump(include={"loss", "class_weights", "label_smoothing"})

    @property
    def scaling_factor(self) -> None:
        """A task run has no VAE."""

    @classmethod
    def load(cls, checked: CheckedRun) -> TaskModel:
        """See `Stage.load`."""
        from medsd_ray.models.networks.libraries import outputs_of
        from medsd_ray.models.networks.task_network import load_network

        assert checked.run.task and checked.task
        outputs = outputs_of(cls.name, checked.task.classes)
        return load_network(checked.run.task.network, cls.name, outputs, checked.run.seed)

    load_base = load

    @classmethod
    def build(cls, model: TaskModel, checked: CheckedRun) -> Self:
        """See `Stage.build`."""
        return cls(model, checked)

    @classmethod
    def merge(cls, base: TaskModel, checked: CheckedRun, weights: dict[str, Tensor]) -> TaskModel:
        """See `Stage.merge`."""
        from medsd_ray.models.networks.task_network import merge

        return merge(base, weights)

    def prepare(self, sample: dict[str, Tensor], purpose: str) -> dict[str, Tensor]:
        """From pixel_values (B, 3, H, W) in [-1, 1], positions (B,) and the targets' own to the same without
        the positions; in training augmented.
        """
        batch = sample
        if purpose == "train":
            batch = augmented(sample, self.settings.augmentation, self.seed)
        return {name: part for name, part in batch.items() if name != "positions"}

    def largest(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """All batches of so many samples are of one size."""
        return batch

    @staticmethod
    def predicted(model: TaskModel, pixels: Tensor) -> Tensor:
        """A merged model's outputs for images (N, 3, H, W) in [-1, 1], float32, on the CPU."""
        with torch.inference_mode():
            return model.network(pixels.to(next(model.network.parameters()).device)).float().cpu()

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """The network's outputs for a prepared batch, float32."""
        network = getattr(self, self.name)
        dtype = next(network.parameters()).dtype
        return network(batch["pixel_values"].to(dtype)).float()
