"""Conditions beside the prompt (models/conditions.py), trained with the U-Net.

A model that has conditions is trained further with the same ones alone.
"""

from __future__ import annotations

from typing import Any

from medsd_ray.errors import InputError
from medsd_ray.models.components import Components
from medsd_ray.models.conditions import ConditionModule, attach
from medsd_ray.models.methods.adaptation import Weights, seeded
from medsd_ray.models.weights import load_partial_state
from medsd_ray.spec.conditions import ConditionSettings


def adapt(components: Components, name: str, settings: Any, seed: int) -> None:
    """The module, all of which is trained; new where the model has none."""
    module = components.conditions
    if module is None:
        module = seeded(seed, lambda: ConditionModule(settings, components.unet))
    elif module.settings.conditions != settings.conditions:
        raise InputError(
            f"conditions: the model was trained with {_in_words(module.settings)}; name the same, or choose "
            "a model without conditions"
        )
    module.settings = settings
    attach(components.unet, module)
    components.conditions = module.requires_grad_(True).train()


def merge(components: Components, name: str, settings: Any, weights: Weights) -> None:
    if components.unet is None:
        return
    module = components.conditions or ConditionModule(settings, components.unet)
    load_partial_state(module, weights)
    module.settings = settings
    attach(components.unet, module)
    components.conditions = module.eval()


def _in_words(settings: ConditionSettings) -> str:
    """Such as `age (number, 0 to 100), sex (category: F, M)`."""
    parts = []
    for name, one in sorted(settings.conditions.items()):
        values = f": {', '.join(one.values)}" if one.values else ""
        bounds = f", {one.range[0]:g} to {one.range[1]:g}" if one.range else ""
        parts.append(f"{name} ({one.kind}{bounds}{values})")
    return ", ".join(parts)
