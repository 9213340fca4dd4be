"""A run whose spec, data and model were checked: what the driver finds out once and tells every worker."""

from __future__ import annotations

from dataclasses import dataclass, field

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
class ModelSize:
    """Numbers of parameters that a worker holds, with the run's methods applied."""

    trained: int
    frozen: int


@dataclass(frozen=True)
class CheckedRun:
    """`run` names folders from the root; `model` is the model's address as the user wrote it, which a
    checkpoint keeps, so that a folder with models and runs can be moved. Data is (address, split).
    `fingerprints` has `model` and `data`, and `prior` and `text_encoder` where the run has a prior or swaps
    the encoder. `reasons` say why what the run leaves open was chosen, by field (see auto_settings.py).
    """

    run: RunSpec
    model: str
    train: tuple[str, str]
    validation: tuple[str, str] | None
    latents: LatentMeta | None
    fingerprints: dict[str, str]
    size: ModelSize = ModelSize(0, 0)
    reasons: dict[str, str] = field(default_factory=dict)
