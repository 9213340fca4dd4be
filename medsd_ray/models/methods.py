"""How a component is adapted: one function for each (component, method), in a registry that training looks into.

A method takes the loaded module and a seed and returns the module to train; the parameters to train are then those
with `requires_grad`. A new method is a function here and its name in `spec.Method`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from medsd_ray.spec import Method


def frozen(module: nn.Module, seed: int) -> nn.Module:
    """Nothing is trained; evaluation mode."""
    return module.requires_grad_(False).eval()


def full(module: nn.Module, seed: int) -> nn.Module:
    """All weights, from the model's own."""
    return module.requires_grad_(True).train()


def scratch(module: nn.Module, seed: int) -> nn.Module:
    """All weights, of the same architecture, drawn anew from `seed`."""
    kind: Any = type(module)
    config: Any = module.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # diffusers' modules take their settings one by one, transformers' as one config object
        fresh = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    return full(fresh, seed)


def decoder(module: nn.Module, seed: int) -> nn.Module:
    """The VAE's decoder alone: latents that its encoder made stay valid, as does a U-Net that was trained on them."""
    frozen(module, seed)
    for part in ("decoder", "post_quant_conv"):
        child = getattr(module, part, None)
        if child is not None:  # post_quant_conv is an option of AutoencoderKL
            child.requires_grad_(True).train()
    return module


METHODS: dict[tuple[str, Method], Callable[[nn.Module, int], nn.Module]] = {
    **{(name, Method.frozen): frozen for name in ("vae", "text_encoder", "unet")},
    **{(name, Method.full): full for name in ("vae", "text_encoder", "unet")},
    **{(name, Method.scratch): scratch for name in ("vae", "text_encoder", "unet")},
    ("vae", Method.decoder): decoder,
}


def apply_method(component: str, module: nn.Module, method: Method, seed: int) -> nn.Module:
    """The module to train, its `requires_grad` set; `seed` is the run's, from which each component draws its own.

    Raises KeyError for a pair that the registry lacks; `spec` lets none through.
    """
    own = int.from_bytes(hashlib.sha256(f"{component}:{seed}".encode()).digest()[:4], "big")
    return METHODS[component, method](module, own)
