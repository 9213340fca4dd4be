"""LoRA (Hu et al. 2022, arXiv 2106.09685, eq. 3) by peft: h = W₀x + alpha/rank·B·A·x on the attention's
projections.

W₀ (out, in) stays as it is; A (rank, in) and B (out, rank) are trained, B from zero, so that training starts
at the base model. For generation the product is added to W₀. An export holds A and B in diffusers' LoRA
format as well.
"""

from __future__ import annotations

from typing import Any

from medsd_ray.errors import InputError
from medsd_ray.models.components import Components
from medsd_ray.models.methods.adaptation import Files, Weights, seeded
from medsd_ray.models.weights import load_partial_state
from medsd_ray.spec.components import Lora

TARGETS = {
    "unet": ["to_q", "to_k", "to_v", "to_out.0"],
    "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj"],
}


FILE = "pytorch_lora_weights.safetensors"


# transformers 4 calls CLIP's layers text_model.*, transformers 5 no more: diffusers reads this form with
# both.
PREFIXES = {"unet": "unet.", "text_encoder": "text_encoder.text_model."}


def adapt(components: Components, name: str, settings: Any, seed: int) -> None:
    """Puts A and B, the only parameters to train, beside each projection."""
    try:
        seeded(seed, lambda: _inject(components, name, settings))
    except ValueError as error:  # peft found none of the targets
        raise InputError(
            f"components.{name}: lora finds no {', '.join(TARGETS[name])} in this model; choose full"
        ) from error
    getattr(components, name).train()


def merge(components: Components, name: str, settings: Any, weights: Weights) -> None:
    """Adds alpha/rank·B·A to the base model's projections."""
    if getattr(components, name) is None:
        return
    tuner = _inject(components, name, settings)
    load_partial_state(tuner.model, weights)
    setattr(components, name, tuner.merge_and_unload().eval())


def files(name: str, settings: Any, weights: Weights) -> Files:
    """A and alpha/rank·B: with the factor in B, a reader needs no alpha of its own."""
    lora = settings.lora or Lora()
    tensors = {}
    for key, value in weights.items():
        scale = lora.alpha / lora.rank if ".lora_B." in key else 1.0
        tensors[PREFIXES[name] + key.removeprefix("text_model.").replace(".default.", ".")] = value * scale
    return {FILE: tensors}


def _inject(components: Components, name: str, settings: Any):
    from peft import LoraConfig, LoraModel

    lora = settings.lora or Lora()
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=TARGETS[name])  # type: ignore[arg-type]
    return LoraModel(getattr(components, name), config, "default")
