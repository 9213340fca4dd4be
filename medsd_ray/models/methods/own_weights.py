"""Methods that train all of a component or a part of it as it is: frozen, full, scratch, decoder,
cross_attention.
"""

from __future__ import annotations

from typing import Any

from medsd_ray.models.components import Components
from medsd_ray.models.methods.adaptation import freeze, seeded
from medsd_ray.spec.components import Component


def frozen(components: Components, name: str, settings: Component, seed: int) -> None:
    """Nothing is trained."""
    freeze(getattr(components, name))


def full(components: Components, name: str, settings: Component, seed: int) -> None:
    """All weights, from the model's own."""
    getattr(components, name).requires_grad_(True).train()


def scratch(components: Components, name: str, settings: Component, seed: int) -> None:
    """All weights, of the same architecture, drawn anew from `seed`."""
    module: Any = getattr(components, name)
    kind, config = type(module), module.config
    # diffusers' modules take their settings one by one, transformers' as one config object
    fresh = seeded(seed, lambda: kind.from_config(config) if hasattr(kind, "from_config") else kind(config))
    setattr(components, name, fresh.requires_grad_(True).train())


def decoder(components: Components, name: str, settings: Component, seed: int) -> None:
    """The VAE's decoder alone: latents that its encoder made stay valid, as does a U-Net that was trained on
    them.
    """
    module = freeze(getattr(components, name))
    for part in ("decoder", "post_quant_conv"):
        child = getattr(module, part, None)
        if child is not None:  # post_quant_conv is an option of AutoencoderKL
            child.requires_grad_(True).train()


def cross_attention(components: Components, name: str, settings: Component, seed: int) -> None:
    """All four projections of the U-Net's attention to the text (`attn2`), softmax(Q(x) K(c)ᵀ/√d) V(c).

    Custom Diffusion (Kumari et al. 2023, arXiv 2212.04488, sec. 3.2) trains K and V of it alone, for a
    handful of images; here Q and the output projection learn too, as whole reports ask for more than a new
    noun.
    """
    module = freeze(getattr(components, name)).train()
    for key, child in module.named_modules():
        if key.endswith(".attn2"):
            child.requires_grad_(True)
