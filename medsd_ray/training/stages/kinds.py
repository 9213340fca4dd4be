"""What each kind of run reads, told from its spec alone, before torch is imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from medsd_ray.spec.run import RunSpec


@dataclass(frozen=True)
class Kind:
    """A kind of run, which one stage trains."""

    shards: Literal["image", "latent"]
    """What the run is trained on."""
    subject: str
    """Who trains, as the subject and verb of a message: `the vae trains`."""
    trains: Callable[[RunSpec], bool]
    """Whether this is the kind of a run."""


VAE = Kind("image", "the vae trains", lambda run: bool(run.components and run.components.vae.trained))
UNET = Kind(
    "latent",
    "the U-Net and text encoder train",
    lambda run: bool(run.components and not run.components.vae.trained),
)
CLASSIFIER = Kind("image", "a classifier trains", lambda run: run.classifier is not None)
SEGMENTER = Kind("image", "a segmenter trains", lambda run: run.segmenter is not None)
KINDS = (VAE, UNET, CLASSIFIER, SEGMENTER)


def kind_of(run: RunSpec) -> Kind:
    """The kind of a run; a valid spec has one."""
    return next(kind for kind in KINDS if kind.trains(run))
