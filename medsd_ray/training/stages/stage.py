"""What a kind of run gives to be trained: the protocol that every file beside this one fulfils.

A new kind of run (a classifier, a segmenter) is a file here with one class, derived from `StageModule`, and
an entry in `registry.py`. Nothing else of training knows what is trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
from torch import Tensor, nn

from medsd_ray.data.dataset import ShardedDataset
from medsd_ray.spec.run import RunSpec
from medsd_ray.training.checked_run import LatentMeta
from medsd_ray.training.stages.kinds import Kind

if TYPE_CHECKING:  # the driver asks a stage's class before diffusers, which takes seconds, is imported
    from medsd_ray.models.components import Components


class Stage(Protocol):
    """A kind of run: what it reads and loads, how a batch is made of samples, and what its loss is.

    The class says what the driver checks before anything is loaded. An instance is made once on each worker.
    Samples and batches are dictionaries of tensors whose first dimension is the sample.
    """

    kind: ClassVar[Kind]
    """The kind of run that it trains, and on which shards."""

    tokenizer: Any
    """Makes captions into the `input_ids` of a sample; None where a batch needs none."""
    prediction_type: str | None
    """What the U-Net predicts, as a checkpoint records it; None where the run trains no U-Net."""

    @property
    def scaling_factor(self) -> float | None:
        """What brings the VAE's latents to unit variance, as a checkpoint records it; None where the run does
        not know or change it.
        """
        ...

    @classmethod
    def needed_components(cls, run: RunSpec) -> tuple[str, ...]:
        """The parts of the model that a worker of the run loads, as `load_components` names them."""
        ...

    @classmethod
    def build(cls, components: Components, run: RunSpec, latents: LatentMeta | None) -> Self:
        """The stage over components to which the run's methods were applied; `latents` is there for latent
        shards.
        """
        ...

    @classmethod
    def draw_samples(
        cls, components: Components, run: RunSpec, dataset: ShardedDataset
    ) -> tuple[np.ndarray, list[str]]:
        """Images (N, H, W, 3) uint8 that show how far the run has come, and a text for each.

        `components` is the whole model with what was learnt so far merged into it, on the worker's device;
        `dataset` is the validation split, or the training split where there is none.
        """
        ...

    def prepare(self, sample: dict[str, Tensor], purpose: str) -> dict[str, Tensor]:
        """A batch from what the loader gives, on the CPU, in the loader's thread. All that is random in it is
        a function of the run's seed, `purpose` (`train` or `validation`) and each sample's position alone.
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


class StageModule(nn.Module, Stage):
    """A stage whose parameters are those of the run: the trained ones have `requires_grad`. A parameter's
    name begins with its component's.
    """
