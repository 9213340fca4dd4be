"""Another text encoder in the place of Stable Diffusion's: c = LayerNorm(P·f(y)), P learnt to the
cross-attention's width.

As Chambon et al. 2022 (arXiv 2210.04133) try with encoders of the medical domain: f is any transformers
encoder with its own tokenizer, frozen or trained with P. A folder of such a pipeline has f in `text_encoder/`
as transformers' AutoModel reads it, P and the norm in `text_encoder/projection.safetensors`, and no text
encoder in model_index.json, as diffusers knows no such class: its StableDiffusionPipeline loads with
`text_encoder=None, tokenizer=None` and takes `prompt_embeds`.
"""

from __future__ import annotations

from typing import Any

import torch

from medsd_ray.errors import InputError
from medsd_ray.models.components import Components
from medsd_ray.models.methods.adaptation import Weights, seeded
from medsd_ray.models.resolve import encoder_fingerprint, resolve_encoder
from medsd_ray.models.swapped_encoder import SwappedEncoder, hidden_states, load_encoder, load_tokenizer
from medsd_ray.models.weights import load_partial_state
from medsd_ray.spec.components import Swap

LONGEST = 8192  # tokenizers that know no limit say 10^30


def adapt(components: Components, name: str, settings: Any, seed: int) -> None:
    """The swapped encoder and its tokenizer; P and the norm are trained, and f where the spec says so."""
    encoder, tokenizer = _of_spec(settings.swap)
    width: Any = components.unet.config["cross_attention_dim"]
    module = seeded(seed, lambda: SwappedEncoder(encoder, tokenizer.pad_token_id, width))
    encoder.requires_grad_(settings.swap.train).train(settings.swap.train)
    components.text_encoder, components.tokenizer = module, tokenizer


def merge(components: Components, name: str, settings: Any, weights: Weights) -> None:
    encoder, tokenizer = _of_spec(settings.swap)
    if components.text_encoder is not None:
        module = SwappedEncoder(encoder, tokenizer.pad_token_id, len(weights["projection.bias"]))
        load_partial_state(module, weights)
        components.text_encoder = module.eval()
    if components.tokenizer is not None:
        components.tokenizer = tokenizer


def source_fingerprint(settings: Any) -> str:
    """SHA-256 over the encoder's files."""
    return encoder_fingerprint(settings.swap.model)


def _of_spec(swap: Swap) -> tuple[Any, Any]:
    """Encoder and tokenizer, in evaluation mode. Raises InputError for what is no text encoder."""
    folder = resolve_encoder(swap.model)
    try:
        tokenizer, encoder = load_tokenizer(folder), load_encoder(folder)
    except InputError:
        raise
    except Exception as error:  # whatever transformers and safetensors raise on what they cannot read
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{swap.model}: not a text encoder with safetensors weights and a tokenizer, as AutoModel reads "
            f"them ({type(error).__name__}: {reason}); convert it or choose another"
        ) from error
    tokenizer.model_max_length = swap.max_length or tokenizer.model_max_length
    if tokenizer.model_max_length > LONGEST:
        raise InputError(
            f"{swap.model}: its tokenizer knows no greatest length; set "
            "components.text_encoder.swap.max_length"
        )
    if tokenizer.pad_token_id is None:
        raise InputError(f"{swap.model}: its tokenizer has no padding token; choose another encoder")
    _try_out(swap, encoder, tokenizer)
    return encoder, tokenizer


@torch.no_grad()
def _try_out(swap: Swap, encoder: Any, tokenizer: Any) -> None:
    length = tokenizer.model_max_length
    ids = tokenizer(
        [""], padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    ).input_ids
    try:
        shape = tuple(hidden_states(encoder, ids, tokenizer.pad_token_id).shape)
        if shape != (1, length, encoder.config.hidden_size):
            raise ValueError(f"its last hidden state is of shape {shape}")
    except Exception as error:  # each model has its own way to fail on input that it does not know
        raise InputError(
            f"{swap.model}: gives no hidden state for each of {length} tokens ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:120]}); choose a text encoder, or a smaller swap.max_length"
        ) from error
