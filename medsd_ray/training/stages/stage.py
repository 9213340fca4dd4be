"""What a kind of run gives to be trained: the protocol that every file beside this one fulfils.

A new kind of run is a file here with one class, derived from `StageModule`, and an entry in `registry.py`.
Nothing else of training knows what is trained.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, Self

import numpy as np
from torch import Tensor, nn

from medsd_ray.data.conditions import ConditionTargets
from medsd_ray.data.dataset import Dataset
from medsd_ray.data.targets import Targets
from medsd_ray.spec.run import RunSpec
from medsd_ray.training.checked_run import CheckedRun
from medsd_ray.training.stages.kinds import Kind


class Model(Protocol):
    """What a run trains and what it needs beside that, in memory."""

    def modules(self) -> dict[str, nn.Module]:
        """The parts that have weights, by name."""
        ...


class Stage(Protocol):
    """A kind of run: what it reads and loads, how a batch is made of samples, and what its loss is.

    The class says what the driver checks before anything is loaded. An instance is made once on each worker.
    Samples and batches are dictionaries of tensors whose first dimension is the sample.
    """

    kind: ClassVar[Kind]
    """The kind of run that it trains, and on which shards."""

    tokenizer: Any
    """Makes captions into the `input_ids` of a sample; None where a batch needs none."""
    targets: Targets | None
    """What of an image's labels and masks its samples hold; None where that is nothing."""
    condition_targets: ConditionTargets | None = None
    """What of a latent sample's labels and masks its samples hold; None where the run has no conditions."""
    prediction_type: str | None
    """What the U-Net predicts, as a checkpoint records it; None where the run trains no U-Net."""

    @property
    def scaling_factor(self) -> float | None:
        """What brings the VAE's latents to unit variance, as a checkpoint records it; None where the run does
        not know or change it.
        """
        ...

    @property
    def validated(self) -> dict[str, Any]:
        """The settings, by name, that change what the validation loss measures: losses of runs that differ in
        one are not compared.
        """
        ...

    @classmethod
    def load(cls, checked: CheckedRun) -> Model:
        """What a worker of the run needs of its model, with the run's methods applied: the parameters to
        train are those with `requires_grad`. Raises InputError where the model cannot be loaded or does not
        fit the methods.
        """
        ...

    @classmethod
    def build(cls, model: Any, checked: CheckedRun) -> Self:
        """The stage over a model that `load` gave."""
        ...

    @classmethod
    def load_base(cls, checked: CheckedRun) -> Model:
        """The whole model as it was before the run, for `merge`."""
        ...

    @classmethod
    def merge(cls, base: Any, checked: CheckedRun, weights: dict[str, Tensor]) -> Model:
        """The model as it is used after training: `base`, which may be changed in place, with trained weights
        (parameter name -> tensor) merged into it.
        """
        ...

    @classmethod
    def draw_samples(cls, model: Any, checked: CheckedRun, dataset: Dataset) -> tuple[np.ndarray, list[str]]:
        """Images (N, H, W, 3) uint8 that show how far the run has come, and a text for each.

        `model` is what `merge` gave, on the worker's device; `dataset` is the validation split, or the
        training split where there is none.
        """
        ...

    def prepare(self, sample: dict[str, Tensor], purpose: str) -> dict[str, Tensor]:
        """A batch from what the loader gives, on the CPU, in the loader's thread. All that is random in it is
        a function of `purpose` (`train` or `validation`), the seed of that (`seed_of`) and each sample's
        position alone.
        """
        ...

    def largest(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A prepared batch as large as one of so many samples can be: what has to fit in a GPU's memory."""
        ...

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The mean loss of a prepared batch; a scalar, float32. The parameters may be of half precision: what
        goes into a component is brought to its dtype here, and the loss is taken in float32.
        """
        ...


def seed_of(run: RunSpec, purpose: str) -> int:
    """What is random in training follows from the run's seed; validation is the same in every run."""
    return 0 if purpose == "validation" else run.seed


class StageModule(nn.Module, Stage):
    """A stage whose parameters are those of the run: the trained ones have `requires_grad`. A parameter's
    name begins with its component's.
    """

    rows: Tensor | None = None
    """Of the last batch outside training, what `figures` is made of, (B, R); None where it makes nothing."""

    def figures(self, rows: Tensor) -> dict[str, float]:
        """What validation measures beside the loss, from the rows (N, R), float64, of all of its samples; the
        names are those of metrics.jsonl.
        """
        return {}
