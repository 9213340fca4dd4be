"""How a component is adapted: the registry of (component, method), which training, loading and export look
into.

A new method is an entry here and a name in `spec.Method`; what takes more than a few lines has a file of its
own.
"""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import ValidationError

from medsd_ray.errors import InputError
from medsd_ray.models.components import Components
from medsd_ray.models.methods import inversion, lora, swap
from medsd_ray.models.methods.method import Way
from medsd_ray.models.methods.whole import cross_attention, decoder, frozen, full, scratch
from medsd_ray.spec.run import Component, Method
from medsd_ray.spec.run import Components as HowAll

METHODS: dict[tuple[str, Method], Way] = {
    **{(name, Method.frozen): Way(frozen) for name in ("vae", "text_encoder", "unet")},
    **{(name, Method.full): Way(full) for name in ("vae", "text_encoder", "unet")},
    **{(name, Method.scratch): Way(scratch) for name in ("vae", "text_encoder", "unet")},
    **{(name, Method.lora): Way(lora.adapt, lora.fold, lora.files) for name in ("text_encoder", "unet")},
    ("vae", Method.decoder): Way(decoder),
    ("unet", Method.cross_attention): Way(cross_attention),
    ("text_encoder", Method.swap): Way(swap.adapt, swap.fold, source=swap.source),
    ("text_encoder", Method.textual_inversion): Way(inversion.adapt, inversion.fold, inversion.files),
}


ON_SWAPPED = (Method.frozen, Method.full, Method.swap)
"""What a text encoder that an earlier run has swapped can be: the other methods are made for CLIP's."""


def way(name: str, how: Component) -> Way:
    return METHODS[name, how.method]


def adapt(components: Components, name: str, how: Component, seed: int) -> None:
    """Makes a component ready to train; `seed` is the run's, from which each component draws its own.

    Raises InputError where the model does not fit the method.
    """
    if isinstance(getattr(components, name), swap.SwappedEncoder) and how.method not in ON_SWAPPED:
        raise InputError(
            f"components.text_encoder: {how.method} is not for the model's swapped encoder; choose frozen, full or swap"
        )
    own = int.from_bytes(hashlib.sha256(f"{name}:{seed}".encode()).digest()[:4], "big")
    way(name, how).adapt(components, name, how, own)


def described(description: dict[str, Any], name: str) -> Component:
    """How a checkpoint's run adapted a component, from its checkpoint.json. Raises InputError where that says
    nonsense.
    """
    settings = description.get("spec", {}).get("components", {}).get(name) or {
        "method": description["components"][name]
    }
    kind: Any = HowAll.model_fields[name].annotation
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise InputError(
            f"checkpoint.json: {name} is adapted in a way that this version of medsd does not know"
        ) from error
