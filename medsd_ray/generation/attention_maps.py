"""Where a model looks: its cross-attention on real images, given their own captions.

Teacher-forced, as Dombrowski et al. 2024 (Trade-offs in Fine-tuned Diffusion Models Between Accuracy and
Interpretability, AAAI 2024, arXiv 2303.17908, by the code that they published): nothing is generated. The
latent of a real image is noised anew to each of the last of DDIM's steps, z_t = √ᾱ(t)·z₀ + √(1 - ᾱ(t))·ε, the
U-Net sees it once with the image's caption and without guidance, and the attention of every cross-attention
layer to some tokens of the caption is averaged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor, nn
from torch.nn import functional

from medsd_ray.generation.edit import latents_of
from medsd_ray.generation.sampling import initial_noise, lanes_for, one_thread
from medsd_ray.models.components import Components
from medsd_ray.models.conditions import predict
from medsd_ray.models.drift import in_effect
from medsd_ray.models.schedulers import Ddim, sampling_scheduler
from medsd_ray.models.tokens import token_ids
from medsd_ray.spec.images import Sampling

STEPS, LAST = 50, 40
"""DDIM's steps, of which the last, nearer to the image, are looked at. As in the paper's code."""


def attention_maps(
    components: Components,
    pixels: np.ndarray,
    captions: Sequence[str],
    tokens: np.ndarray,
    *,
    seed: int,
    indices: Sequence[int],
) -> np.ndarray:
    """How much each place of each image is attended to.

    Args:
        components: The model, on the device to use.
        pixels: (N, H, W, 1 or 3) uint8, of the size that the model makes.
        captions: Of each image.
        tokens: (N, L) bool, the caption's tokens whose attention counts; at least one of each image.
        seed: What the noise follows from, with the image's index.
        indices: Of each image: its map is the same among any others.

    Returns:
        (N, h, w) float32 in [0, 1], h and w those of the latents: mean over the steps, layers, heads and
        tokens; maps of deeper layers are enlarged by repeating.
    """
    scheduler = sampling_scheduler(components.scheduler, Ddim)
    scheduler.set_timesteps(STEPS)
    sampling = in_effect(Sampling(), components.drift)  # whose noise has the mean of the model's own drift
    unet: Any = components.unet
    lanes = lanes_for(unet.device, pixels.shape[1] * pixels.shape[2])
    conditions, maps = components.conditions, []
    null = conditions.null(lanes, unet.device) if conditions else {}  # the caption alone is looked at
    with one_thread(unet.device), torch.inference_mode():
        for start in range(0, len(pixels), lanes):
            rows = list(range(start, min(start + lanes, len(pixels))))
            padded = rows + [start] * (lanes - len(rows))  # one shape of every pass, as in sampling.py
            z0 = latents_of(components, pixels[padded])
            text = _embedded(components, [captions[row] for row in padded]).to(z0.dtype)
            weights = torch.from_numpy(tokens[padded]).to(z0.device)
            total = torch.zeros(lanes, *z0.shape[2:], device=z0.device)
            for t in scheduler.timesteps[-LAST:]:
                noise = initial_noise(
                    seed, [indices[row] for row in padded], tuple(z0.shape[1:]), f"look-{int(t)}", sampling
                )
                z = scheduler.add_noise(z0, noise.to(z0.device, z0.dtype), t.expand(lanes).to(z0.device))
                with recorded(unet, weights, z0.shape[2:]) as seen:
                    predict(unet, conditions, z, t.to(z0.device), text, null)
                total += torch.stack(seen).mean(0)
            maps.append((total / LAST)[: len(rows)].float().cpu().numpy())
    return np.concatenate(maps)


@contextlib.contextmanager
def recorded(unet: nn.Module, tokens: Tensor, size: Sequence[int]) -> Iterator[list[Tensor]]:
    """Within, each cross-attention layer of the U-Net adds its map (N, *size) to the list: its attention to
    the `tokens` (N, L) bool, mean over heads and tokens.
    """
    seen: list[Tensor] = []
    layers = [(name, part) for name, part in unet.named_modules() if isinstance(part, Attention)]
    layers = [part for name, part in layers if name.endswith("attn2")]
    before = [layer.processor for layer in layers]
    for layer in layers:
        layer.set_processor(AttnProcessor())  # the one that computes the probabilities by themselves
        layer.get_attention_scores = _recorder(layer, tokens, size, seen)  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        for layer, processor in zip(layers, before, strict=True):
            del layer.get_attention_scores
            layer.set_processor(processor)


def _recorder(
    layer: Attention, tokens: Tensor, size: Sequence[int], seen: list[Tensor]
) -> Callable[..., Tensor]:
    compute = layer.get_attention_scores
    weights = tokens.float() / tokens.sum(1, keepdim=True)

    def record(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
        probabilities = compute(query, key, mask)  # (N * heads, places, L)
        heads = probabilities.float().unflatten(0, (len(tokens), -1)).mean(1)
        of_tokens = torch.einsum("npl,nl->np", heads, weights.to(heads.device))
        # A layer sees the latents halved some times; its places lie row by row.
        halved = round((size[0] * size[1] / of_tokens.shape[1]) ** 0.5)
        rows = -(-size[0] // halved)
        place = of_tokens.unflatten(1, (rows, -1))[:, None]
        seen.append(functional.interpolate(place, size=tuple(size), mode="nearest")[:, 0])
        return probabilities

    return record


def _embedded(components: Components, captions: list[str]) -> Tensor:
    encoder: Any = components.text_encoder
    return encoder(token_ids(components.tokenizer, captions).to(encoder.device))[0]


def tokens_of(
    tokenizer: Any, captions: Sequence[str], phrases: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens of each caption are those of the phrases, in whatever letters.

    Returns:
        (N, L) bool; where a caption has none of the phrases, all of its own tokens, without those of its
        begin, its end and what fills it up. And (N,) bool: whether it has one.
    """
    ids = token_ids(tokenizer, list(captions)).numpy()
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    special |= {tokenizer.cls_token_id, tokenizer.sep_token_id}
    forms = [form for phrase in phrases for form in (phrase, phrase.lower(), phrase.capitalize())]
    wanted = [tokenizer(form, add_special_tokens=False)["input_ids"] for form in dict.fromkeys(forms)]
    found = np.zeros(ids.shape, bool)
    for row, of_caption in enumerate(ids):
        for phrase in filter(None, wanted):
            for at in range(len(of_caption) - len(phrase) + 1):
                if of_caption[at : at + len(phrase)].tolist() == phrase:
                    found[row, at : at + len(phrase)] = True
    named = np.asarray(found.any(1))
    own = np.isin(ids, [number for number in special if number is not None], invert=True)
    own[:, 0] |= ~own.any(1)  # an empty caption: its begin
    found[~named] = own[~named]
    return found, named
