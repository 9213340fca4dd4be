"""What it takes to adapt a component by one method; `registry.py` has an `Adaptation` for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medsd_ray.models.components import Components
from medsd_ray.models.weights import load_partial_state

Weights = dict[str, Tensor]
"""Parameter name, without the component's, -> trained tensor."""
Files = dict[str, Weights]
"""File name -> tensor name -> tensor."""


def _load_into_base(components: Components, name: str, settings: Any, weights: Weights) -> None:
    if (module := getattr(components, name)) is not None:
        load_partial_state(module, weights)


def _no_files(name: str, settings: Any, weights: Weights) -> Files:
    return {}


@dataclass(frozen=True)
class Adaptation:
    """One method for one component.

    All its functions take the component's `name` (`vae`, `text_encoder` or `unet`) and its `settings`, which
    are the component's part of the run's spec.
    """

    adapt: Callable[[Components, str, Any, int], None]
    """`adapt(components, name, settings, seed)` makes the component ready to train, in place: the parameters
    to train are then those with `requires_grad`, and all that is drawn at random follows from `seed`. Raises
    InputError where the model does not fit the method.
    """
    merge: Callable[[Components, str, Any, Weights], None] = _load_into_base
    """`merge(components, name, settings, weights)` puts trained weights into the base model, so that what
    generates and encodes finds a component of the usual architecture: LoRA's matrices are multiplied and
    added to the projections, new words become rows of the embedding. A component that was not loaded stays
    None (of a text encoder, the tokenizer may be there alone). Raises as `load_partial_state` does.
    """
    files: Callable[[str, Any, Weights], Files] = _no_files
    """`files(name, settings, weights)` are the files that an export holds beside the pipeline."""
    source_fingerprint: Callable[[Any], str] | None = None
    """`source_fingerprint(settings)` is the SHA-256 of what the weights belong to beyond the base model; None
    where that is nothing.
    """


def freeze(module: nn.Module) -> nn.Module:
    """Nothing is trained; evaluation mode."""
    return module.requires_grad_(False).eval()


def seeded(seed: int, build: Callable[[], Any]) -> Any:
    """`build()` with torch's generator at `seed`; training's own random state goes on undisturbed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
