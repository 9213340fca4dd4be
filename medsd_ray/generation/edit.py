"""A real image changed by a model, its noise schedule and a prompt: SDEdit, and blended latent diffusion
within a mask.

SDEdit (Meng et al. 2022, arXiv 2108.01073, alg. 1): z₀ = E(x) is noised to t₀, the share `strength` of the
schedule, z = √ᾱ(t₀)·z₀ + √(1 - ᾱ(t₀))·ε, and denoised from there with the prompt. Strength 0 gives the VAE's
reconstruction.

Within a mask m (Lugmayr et al. 2022, arXiv 2201.09865, eq. 8, without its resampling; in latents Avrahami et
al. 2023, arXiv 2206.02779, alg. 1): after each step to t, z ← m·z + (1 - m)·(√ᾱ(t)·z₀ + √(1 - ᾱ(t))·ε), so
that what is known is noised anew to the level of the step, and is z₀ itself at the end. The decoder sees
beyond a latent's own pixels, so outside of the mask the image is the VAE's reconstruction by a last step in
pixels.

With a drift (models/drift.py) ε has its mean, and each step is that of the drifted reverse process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from torch.nn import functional

from medsd_ray.errors import InputError
from medsd_ray.generation.sampling import (
    build_pipeline,
    decode,
    image_size,
    initial_noise,
    lanes_for,
    one_thread,
)
from medsd_ray.models.components import Components
from medsd_ray.models.conditions import ConditionModule, predict
from medsd_ray.models.drift import in_effect
from medsd_ray.models.pixels import to_unit_range, vae_scale_factor
from medsd_ray.spec.images import Sampling


@dataclass(frozen=True)
class Edited:
    """Images after the edit and the VAE's reconstructions of those before it, (N, H, W, 3) uint8."""

    after: np.ndarray
    reconstruction: np.ndarray


def edit(
    components: Components,
    pixels: np.ndarray,
    prompt: str,
    *,
    seed: int,
    sampling: Sampling,
    strength: float,
    mask: np.ndarray | None = None,
) -> Edited:
    """Changes images after a prompt, all of them or within a mask.

    Args:
        components: The model, on the device to use.
        pixels: (N, H, W, 1 or 3) uint8, of the size that the model makes.
        prompt: What the images are to show.
        seed: What the noise follows from: image i is a function of (model, pixels, prompt, settings, seed,
            i).
        sampling: How the images are sampled.
        strength: From 0 (the VAE's reconstruction) to 1 (all of the noise schedule).
        mask: (H, W) bool, true where the images may change; it grows to whole latents.

    Returns:
        The images after the edit, and the VAE's reconstructions of those before.

    Raises:
        InputError: The images are of another size, or the mask leaves nothing to change.
        RunError: The model gives values that are not numbers.
    """
    if pixels.shape[1:3] != image_size(components):
        raise InputError(
            f"images of {pixels.shape[1:3]} pixels where the model makes {image_size(components)}"
        )
    sampling = in_effect(sampling, components.drift)
    pipeline = build_pipeline(components, sampling)
    free = None if mask is None else latent_mask(mask, vae_scale_factor(components.vae))
    if free is not None and not bool(free.any()):
        raise InputError(
            "the mask has no white pixel, so there is nothing to change; give one that is white where it may"
        )
    lanes = lanes_for(pipeline.device, pixels.shape[1] * pixels.shape[2])
    after, before = [], []
    with one_thread(pipeline.device), torch.inference_mode():
        text = _text(pipeline, prompt, sampling)
        for start in range(0, len(pixels), lanes):
            rows = list(range(start, min(start + lanes, len(pixels))))
            padded = rows + [start] * (lanes - len(rows))  # one shape of every pass, as in sampling.py
            z0 = latents_of(components, pixels[padded])
            noise = initial_noise(seed, padded, tuple(z0.shape[1:]), "edit", sampling).to(z0.device)
            z = denoise(pipeline, z0, noise, text, sampling, strength, free, components.conditions)
            after.append(decode(components, z, len(rows)))
            before.append(decode(components, z0, len(rows)))
    made, again = np.concatenate(after), np.concatenate(before)
    if free is not None:
        made = np.where(pixel_mask(free, pixels.shape[1:3])[None, ..., None], made, again)
    return Edited(made, again)


def denoise(
    pipeline: StableDiffusionPipeline,
    z0: Tensor,
    noise: Tensor,
    text: Tensor,
    sampling: Sampling,
    strength: float,
    free: Tensor | None,
    conditions: ConditionModule | None = None,
) -> Tensor:
    """Latents (B, C, h, w) after the edit. `text` (1 or 2, L, D): the prompt's embedding, before it the
    negative prompt's where there is guidance; `free` (h, w) is 1 where latents may change; of
    `conditions` none is known.
    """
    scheduler: Any = pipeline.scheduler
    unet: Any = pipeline.unet
    scheduler.set_timesteps(sampling.steps, device=z0.device)
    first = sampling.steps - int(sampling.steps * strength)
    if first == sampling.steps:
        return z0
    scheduler.set_begin_index(first)
    timesteps = scheduler.timesteps[first:]
    context = text.repeat_interleave(len(z0), dim=0)
    null = conditions.null(len(context), z0.device) if conditions else {}
    z = scheduler.add_noise(z0, noise, timesteps[:1].expand(len(z0)))
    for index, t in enumerate(timesteps):
        noisy = scheduler.scale_model_input(torch.cat([z] * len(text)), t)
        predicted = predict(unet, conditions, noisy, t, context, null)
        if len(text) == 2:
            without, wanted = predicted.chunk(2)
            predicted = without + sampling.guidance_scale * (wanted - without)
        z = scheduler.step(predicted, t, z, return_dict=False)[0]
        if free is not None:
            last = index + 1 == len(timesteps)
            known = z0 if last else scheduler.add_noise(z0, noise, timesteps[index + 1].expand(len(z0)))
            z = torch.where(free.to(z.device) > 0, z, known)
    return z


def latent_mask(mask: np.ndarray, factor: int) -> Tensor:
    """(H, W) bool -> (H / factor, W / factor) float32: 1 where any pixel of the latent is in the mask."""
    return functional.max_pool2d(torch.from_numpy(mask.astype(np.float32))[None], factor)[0]


def pixel_mask(free: Tensor, size: tuple[int, ...]) -> np.ndarray:
    """The pixels (H, W) bool of the latents that are free."""
    return functional.interpolate(free[None, None], size=size, mode="nearest")[0, 0].numpy() > 0.5


def editable(components: Components, mask: np.ndarray) -> np.ndarray:
    """The pixels (H, W) bool that an edit within `mask` (H, W) may change: whole latents."""
    return pixel_mask(latent_mask(mask, vae_scale_factor(components.vae)), mask.shape)


def latents_of(components: Components, pixels: np.ndarray) -> Tensor:
    """(N, H, W, C) uint8 -> (N, c, h, w): the posterior's means, scaled as the U-Net sees them."""
    vae: Any = components.vae
    x = to_unit_range(torch.from_numpy(pixels).to(vae.device).permute(0, 3, 1, 2))
    with torch.inference_mode():
        return vae.encode(x).latent_dist.mean * vae.config["scaling_factor"]


def _text(pipeline: StableDiffusionPipeline, prompt: str, sampling: Sampling) -> Tensor:
    guided = sampling.guidance_scale > 1
    wanted, without = pipeline.encode_prompt(
        prompt, pipeline.device, 1, guided, negative_prompt=sampling.negative_prompt if guided else None
    )
    return torch.cat([without, wanted]) if without is not None else wanted
