"""Images from prompts, in this process. Each image is a function of (model, prompt, settings, seed, index)
alone.

Initial noise is keyed by (seed, index), and the samplers draw none of their own. What is left are the
kernels: matrix products round differently for another batch size or number of threads, which now and then
moves a pixel by one level. So every forward pass has one shape, LANES images of which the spare ones repeat
the first, and on a CPU one thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from medsd_ray.data.conditions import Given
from medsd_ray.data.randomness import keyed_noise
from medsd_ray.errors import RunError
from medsd_ray.generation.guidance import denoise_with_conditions
from medsd_ray.models.components import Components
from medsd_ray.models.drift import in_effect
from medsd_ray.models.pixels import to_uint8, vae_scale_factor
from medsd_ray.models.schedulers import Ddim, DpmSolver, sampling_scheduler
from medsd_ray.spec.images import Guidance, Sampling

SCHEDULERS = {"dpm-solver++": DpmSolver, "ddim": Ddim}
"""The sampler of each name of spec.images."""
LANES = 8
LARGE = (
    128 * 128
)  # pixels from which a CPU gains nothing from more than one lane, and the VAE decodes one image at a time


def image_size(components: Components) -> tuple[int, int]:
    """Height and width in pixels of the images that a model makes."""
    (height, width), factor = components.sample_size, vae_scale_factor(components.vae)
    return height * factor, width * factor


def sample_images(
    components: Components,
    prompts: Sequence[str],
    indices: Sequence[int],
    *,
    seed: int,
    sampling: Sampling | None = None,
    conditions: Sequence[Mapping[str, Given]] | None = None,
    guidance: Guidance = Guidance(),
) -> np.ndarray:
    """Makes image `indices[i]` from `prompts[i]`, on the device that the components are on.

    Of a model with conditions, `conditions[i]` are its image's by name; one that is not given is null.

    Returns (N, H, W, 3) uint8. Raises RunError where the model gives values that are not numbers.
    """
    sampling = in_effect(sampling or Sampling(), components.drift)
    pipeline = build_pipeline(components, sampling)
    height, width = image_size(components)
    lanes = lanes_for(pipeline.device, height * width)
    shape = (components.unet.config["in_channels"], *components.sample_size)
    images = np.empty((len(indices), height, width, 3), np.uint8)
    with one_thread(pipeline.device), torch.inference_mode():
        for start in range(0, len(indices), lanes):
            rows = list(range(start, min(start + lanes, len(indices))))
            padded = rows + [start] * (lanes - len(rows))
            noise = initial_noise(seed, [indices[row] for row in padded], shape, "sample", sampling)
            texts = [prompts[row] for row in padded]
            if components.conditions is None:
                latents = _denoise(pipeline, texts, noise, sampling)
            else:
                given = [conditions[row] if conditions else {} for row in padded]
                latents = denoise_with_conditions(
                    pipeline, components.conditions, texts, given, noise, sampling, guidance
                )
            images[rows] = decode(components, latents, len(rows))
    return images


def initial_noise(
    seed: int, indices: Sequence[int], shape: tuple[int, ...], purpose: str, sampling: Sampling
) -> Tensor:
    """Noise (N, *shape) float32 of the images `indices`, N(drift, 1) of each number."""
    noise = keyed_noise(seed, indices, shape, purpose)
    return noise + sampling.drift if sampling.drift else noise


def _denoise(
    pipeline: StableDiffusionPipeline, prompts: list[str], noise: Tensor, sampling: Sampling
) -> Tensor:
    """Latents (lanes, C, h, w) of the prompts' images, scaled as the U-Net sees them."""
    return pipeline(
        prompt=prompts,
        negative_prompt=[sampling.negative_prompt] * len(prompts),
        latents=noise.to(pipeline.device, pipeline.unet.dtype),
        guidance_scale=sampling.guidance_scale,
        num_inference_steps=sampling.steps,
        output_type="latent",
        return_dict=False,
    )[0]


def decode(components: Components, latents: Tensor, count: int) -> np.ndarray:
    """The first `count` images (count, H, W, 3) uint8 of latents (lanes, C, h, w).

    Small images all in one pass, whatever the count, so that its shape is always the same; large ones one at
    a time, which bounds the memory. Raises RunError where the model gives values that are not numbers.
    """
    height, width = image_size(components)
    passes = latents[:count].split(1) if height * width > LARGE else [latents]
    vae = components.vae
    decoded = [vae.decode(z / vae.config["scaling_factor"]).sample for z in passes]  # type: ignore[union-attr]
    pixels = torch.cat(decoded)[:count].float()
    if not bool(pixels.isfinite().all()):
        raise RunError(
            "the model's images are not numbers (NaN or infinite): its training diverged, or its weights "
            "are damaged"
        )
    return to_uint8(pixels).cpu().numpy()


def lanes_for(device: torch.device, pixels: int) -> int:
    """Images of one forward pass."""
    return 1 if device.type == "cpu" and pixels > LARGE else LANES


def build_pipeline(components: Components, sampling: Sampling) -> StableDiffusionPipeline:
    """The model with the sampler that `sampling` names, its drift in effect in every step."""
    scheduler = sampling_scheduler(components.scheduler, SCHEDULERS[sampling.scheduler])
    scheduler.drift, scheduler.drift_where = sampling.drift or 0.0, sampling.drift_where
    pipeline = StableDiffusionPipeline(
        vae=components.vae,
        text_encoder=components.text_encoder,  # type: ignore[arg-type]
        tokenizer=components.tokenizer,
        unet=components.unet,
        scheduler=scheduler,
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextlib.contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """One thread for what runs on a CPU within."""
    threads = torch.get_num_threads()
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)
