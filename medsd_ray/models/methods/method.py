"""What a method of adapting a component is; `methods.py` is the registry of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medsd_ray.models.components import Components
from medsd_ray.models.weights import lay_over

Weights = dict[str, Tensor]


Files = dict[str, Weights]


def _over_the_base(components: Components, name: str, how: Any, weights: Weights) -> None:
    if (module := getattr(components, name)) is not None:
        lay_over(module, weights)


def _no_files(name: str, how: Any, weights: Weights) -> Files:
    return {}


@dataclass(frozen=True)
class Way:
    """One method for one component; `how` is the component's part of the spec.

    `adapt(components, name, how, seed)` makes the component ready to train: the parameters to train are then
    those with `requires_grad`, and whatever is drawn at random follows from `seed`. Raises InputError where
    the model does not fit. `fold(components, name, how, weights)` lays trained weights over the base model's,
    so that generation and encoding find a component like any other; one that was not loaded stays None (of a
    text encoder, the tokenizer may be there alone). Raises as `lay_over` does. `files(name, how, weights)`
    are the files that an export holds beside the pipeline: name -> tensors. `source(how)` is a fingerprint of
    what the weights belong to beyond the base model.
    """

    adapt: Callable[[Components, str, Any, int], None]
    fold: Callable[[Components, str, Any, Weights], None] = _over_the_base
    files: Callable[[str, Any, Weights], Files] = _no_files
    source: Callable[[Any], str] | None = None


def freeze(module: nn.Module) -> nn.Module:
    """Nothing is trained; evaluation mode."""
    return module.requires_grad_(False).eval()


def seeded(seed: int, build: Callable[[], Any]) -> Any:
    """`build()` with torch's generator at `seed`; training's own random state goes on undisturbed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
