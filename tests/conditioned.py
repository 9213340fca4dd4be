"""A tiny model with conditions, and what may be given to it."""

from __future__ import annotations

import numpy as np
import torch
from tiny import tiny_components

from medsd_ray.models.components import Components
from medsd_ray.models.methods.registry import adapt
from medsd_ray.spec.conditions import CONDITIONS, ConditionSettings

SETTINGS = ConditionSettings.model_validate(
    {
        "conditions": {
            "sex": {"kind": "category", "field": "sex", "values": ["F", "M"]},
            "age": {"kind": "number", "field": "years", "range": [0, 100]},
            "type": {"kind": "mask", "field": "lung"},  # a name that modules have too
            "nodule": {"kind": "mask", "field": "nodule"},
        },
        "image_size": [16, 16],
        "latent_factor": 2,
    }
)
SQUARE = np.zeros((16, 16), np.uint8)
SQUARE[4:9, 2:7] = 255
GIVEN = [{"age": 63, "sex": "F", "type": SQUARE}, {"nodule": SQUARE, "sex": "M"}, {}]


def conditioned(learnt: bool) -> Components:
    """The tiny model with conditions; `learnt`: with no weight at zero any more."""
    components = tiny_components()
    adapt(components, CONDITIONS, SETTINGS, seed=0)
    assert components.conditions
    if learnt:
        torch.manual_seed(7)
        with torch.no_grad():
            for parameter in components.conditions.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    components.conditions.eval()
    return components
