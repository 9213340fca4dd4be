"""How a component is adapted: the registry of (component, method), which training, loading and export look
into.

A new method is an entry here and a name in `spec.components.Method`; what takes more than a few lines has a
file of its own.
"""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import ValidationError

from medsd_ray.errors import InputError
from medsd_ray.models.components import Components
from medsd_ray.models.methods import conditions, lora, swap, textual_inversion
from medsd_ray.models.methods.adaptation import Adaptation
from medsd_ray.models.methods.own_weights import cross_attention, decoder, frozen, full, scratch
from medsd_ray.spec.components import COMPONENTS, Component, Method
from medsd_ray.spec.components import Components as ComponentSettings
from medsd_ray.spec.conditions import CONDITIONS, ConditionSettings, parse_settings

METHODS: dict[tuple[str, Method], Adaptation] = {
    **{(name, Method.frozen): Adaptation(frozen) for name in COMPONENTS},
    **{(name, Method.full): Adaptation(full) for name in COMPONENTS},
    **{(name, Method.scratch): Adaptation(scratch) for name in COMPONENTS},
    **{
        (name, Method.lora): Adaptation(lora.adapt, lora.merge, lora.files)
        for name in ("text_encoder", "unet")
    },
    ("vae", Method.decoder): Adaptation(decoder),
    ("unet", Method.cross_attention): Adaptation(cross_attention),
    ("text_encoder", Method.swap): Adaptation(
        swap.adapt, swap.merge, source_fingerprint=swap.source_fingerprint
    ),
    ("text_encoder", Method.textual_inversion): Adaptation(
        textual_inversion.adapt, textual_inversion.merge, textual_inversion.files
    ),
    (CONDITIONS, Method.concat): Adaptation(conditions.adapt, conditions.merge),
}


ON_SWAPPED = (Method.frozen, Method.full, Method.swap)
"""What a text encoder that an earlier run has swapped can be: the other methods are made for CLIP's."""


def adaptation(name: str, settings: Component | ConditionSettings) -> Adaptation:
    """The registry's entry for a component and the method that its settings name."""
    return METHODS[name, settings.method]


def adapt(components: Components, name: str, settings: Component | ConditionSettings, seed: int) -> None:
    """Makes a component ready to train; `seed` is the run's, from which each component draws its own.

    Raises InputError where the model does not fit the method.
    """
    if isinstance(getattr(components, name), swap.SwappedEncoder) and settings.method not in ON_SWAPPED:
        raise InputError(
            f"components.text_encoder: {settings.method} is not for the model's swapped encoder; choose "
            "frozen, full or swap"
        )
    own = int.from_bytes(hashlib.sha256(f"{name}:{seed}".encode()).digest()[:4], "big")
    adaptation(name, settings).adapt(components, name, settings, own)


def recorded_settings(description: dict[str, Any], name: str) -> Component | ConditionSettings:
    """A component's settings in a checkpoint's run, from its checkpoint.json.

    Raises InputError where they are none that this version knows.
    """
    if name == CONDITIONS:
        return parse_settings(description.get(CONDITIONS), "checkpoint.json")
    recorded = description.get("spec", {}).get("components", {}).get(name) or {
        "method": description["components"][name]
    }
    kind: Any = ComponentSettings.model_fields[name].annotation
    try:
        return kind.model_validate(recorded)
    except ValidationError as error:
        raise InputError(
            f"checkpoint.json: {name} is adapted in a way that this version of medsd does not know"
        ) from error
