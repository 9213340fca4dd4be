"""A run whose spec, data and model were checked: what the driver finds out once and tells every worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from medsd_ray.data.mixture import SourceMix
from medsd_ray.data.sources.pixels import Fit
from medsd_ray.spec.conditions import ConditionSettings
from medsd_ray.spec.run import RunSpec


@dataclass(frozen=True)
class LatentMeta:
    """What the index of latents says beyond the samples: the VAE's scaling factor; where text embeddings are
    stored, the empty caption's (L, D); and the latents' height and width, which is the size of the images
    that the run's model makes.
    """

    scaling_factor: float
    empty_embedding: list[list[float]] | None
    sample_size: tuple[int, int]


@dataclass(frozen=True)
class TaskMeta:
    """What a task run learns to tell, by the index of its training samples: the classes in the order of the
    network's outputs (a segmenter's without the background), the training samples of each class of a
    classifier, the images' height and width, and how those that are not square came to it.
    """

    classes: tuple[str, ...]
    counts: tuple[int, ...]
    size: int
    fit: Fit = "crop"


@dataclass(frozen=True)
class ConditionMeta:
    """The run's conditions with all that its data decide, and how many training samples have each."""

    settings: ConditionSettings
    samples: dict[str, int]

    def as_values(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"settings": self.settings.model_dump(mode="json"), "samples": self.samples}

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> ConditionMeta:
        """The same of what `as_values` gave."""
        return cls(ConditionSettings.model_validate(values["settings"]), values["samples"])


@dataclass(frozen=True)
class ModelSize:
    """Numbers of parameters that a worker holds, with the run's methods applied."""

    trained: int
    frozen: int


@dataclass(frozen=True)
class CheckedRun:
    """`run` names folders from the root; `model` is the address of the weights that it starts from as the
    user wrote it, which a checkpoint keeps, so that a folder with models and runs can be moved. `train` and
    `validation` say which samples are seen. `fingerprints` has `data`, `model` where the run starts from one,
    and `prior` and `text_encoder` where the run has a prior or swaps the encoder. `latents` is there for
    latent shards, `task` for task runs, `conditions` where the run has some. `loaded` says in words
    what a task's network has of its weights. `reasons` say why what the run leaves open was chosen, by field
    (auto_settings.py).
    """

    run: RunSpec
    model: str
    train: SourceMix
    validation: SourceMix | None
    latents: LatentMeta | None
    fingerprints: dict[str, str]
    task: TaskMeta | None = None
    conditions: ConditionMeta | None = None
    size: ModelSize = ModelSize(0, 0)
    loaded: str = ""
    reasons: dict[str, str] = field(default_factory=dict)
