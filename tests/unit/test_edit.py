"""SDEdit and inpainting: against diffusers' own pipeline, at their limits, and outside of the mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline
from tiny import tiny_components

from medsd_ray.errors import InputError
from medsd_ray.generation import edit as editing
from medsd_ray.generation.edit import edit, latent_mask, pixel_mask
from medsd_ray.models.components import Components
from medsd_ray.models.schedulers import sampling_scheduler
from medsd_ray.spec.images import Sampling

SIZE = 16
PROMPT = "a chest x-ray with an effusion"


@pytest.fixture(scope="module")
def tiny() -> Components:
    return tiny_components()


def pixels(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 1), dtype=np.uint8)


def reconstruction(tiny: Components, images: np.ndarray) -> np.ndarray:
    """D(E(x)) by the VAE alone."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().expand(-1, 3, -1, -1) / 127.5 - 1
    with torch.inference_mode():
        again = torch.cat([tiny.vae.decode(tiny.vae.encode(one[None]).latent_dist.mean).sample for one in x])
    return ((again / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def edited(tiny: Components, strength: float, mask: np.ndarray | None = None, **sampling) -> editing.Edited:
    settings = Sampling(**{"steps": 4, "scheduler": "ddim"} | sampling)
    return edit(tiny, pixels(), PROMPT, seed=1, sampling=settings, strength=strength, mask=mask)


@pytest.mark.parametrize("scheduler", ["ddim", "dpm-solver++"])
def test_strength_0_is_the_reconstruction(tiny: Components, scheduler: str):
    found = edited(tiny, 0.0, scheduler=scheduler)
    np.testing.assert_array_equal(found.after, found.reconstruction)
    assert np.abs(found.reconstruction.astype(int) - reconstruction(tiny, pixels()).astype(int)).max() <= 1


@pytest.mark.parametrize("scheduler", ["ddim", "dpm-solver++"])
def test_more_strength_changes_more(tiny: Components, scheduler: str):
    found = [edited(tiny, strength, scheduler=scheduler) for strength in (0.25, 0.5, 1.0)]
    far = [np.abs(one.after.astype(float) - one.reconstruction).mean() for one in found]
    assert 0 < far[0] < far[1] < far[2]


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_sdedit_is_diffusers_own(tiny: Components, monkeypatch: pytest.MonkeyPatch, guidance_scale: float):
    """The same latents and noise through StableDiffusionImg2ImgPipeline."""
    noise = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(editing, "initial_noise", lambda *_: noise)
    mine = edited(tiny, 0.75, guidance_scale=guidance_scale).after
    pipeline = StableDiffusionImg2ImgPipeline(
        vae=tiny.vae, text_encoder=tiny.text_encoder, tokenizer=tiny.tokenizer, unet=tiny.unet,
        scheduler=sampling_scheduler(tiny.scheduler, DDIMScheduler), safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    x = torch.from_numpy(pixels()).permute(0, 3, 1, 2).float().expand(-1, 3, -1, -1) / 127.5 - 1
    with torch.inference_mode():
        latents = tiny.vae.encode(x).latent_dist.mean * tiny.vae.config["scaling_factor"]
        latents = torch.cat([latents, latents[:1].expand(5, -1, -1, -1)])
    theirs = pipeline(
        prompt=[PROMPT] * 8, image=latents, strength=0.75, num_inference_steps=4,
        guidance_scale=guidance_scale,
        generator=torch.Generator().manual_seed(5), output_type="np",
    ).images  # fmt: skip
    assert np.abs(mine - 255 * theirs[:3]).max() < 1.01


def test_inpainting_leaves_what_is_outside_as_the_reconstruction(tiny: Components):
    mask = np.zeros((SIZE, SIZE), bool)
    mask[4:10, 6:11] = True  # 11 is odd: the mask grows to whole latents of 2 pixels
    found = edited(tiny, 1.0, mask)
    grown = np.zeros((SIZE, SIZE), bool)
    grown[4:10, 6:12] = True
    np.testing.assert_array_equal(found.after[:, ~grown], found.reconstruction[:, ~grown])
    assert (found.after[:, grown] != found.reconstruction[:, grown]).mean() > 0.9
    whole = edited(tiny, 1.0, np.ones((SIZE, SIZE), bool))
    np.testing.assert_array_equal(whole.after, edited(tiny, 1.0).after)  # a mask of all is no mask


@pytest.mark.parametrize("scheduler", ["ddim", "dpm-solver++"])
def test_what_is_known_follows_the_schedule_in_every_step(tiny: Components, scheduler: str):
    """What the U-Net sees outside of the mask is z₀ noised to that step, and at the end z₀ itself."""
    pipeline = editing.build_pipeline(tiny, Sampling(scheduler=scheduler))
    z0, noise = torch.randn(2, 1, 4, 8, 8).unbind(0)
    free = torch.zeros(8, 8)
    free[2:5, 3:6] = 1
    seen = []
    handle = tiny.unet.register_forward_pre_hook(lambda _, args: seen.append((int(args[1]), args[0].clone())))
    try:
        with torch.inference_mode():
            text = torch.zeros(1, 32, 16)
            z = editing.denoise(pipeline, z0, noise, text, Sampling(steps=5, guidance_scale=1.0), 0.8, free)
    finally:
        handle.remove()
    assert len(seen) == 4
    outside = free == 0
    for t, x in seen:
        alpha = tiny.scheduler.alphas_cumprod[t]
        expected = alpha.sqrt() * z0 + (1 - alpha).sqrt() * noise
        torch.testing.assert_close(x[..., outside], expected[..., outside], atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(z[..., outside], z0[..., outside], atol=0, rtol=0)
    assert not torch.allclose(z[..., free == 1], z0[..., free == 1], atol=0.1)


def test_an_image_does_not_depend_on_those_beside_it(tiny: Components):
    sampling = Sampling(steps=3)
    many = edit(tiny, pixels(9), PROMPT, seed=1, sampling=sampling, strength=0.7).after
    few = edit(tiny, pixels(9)[:2], PROMPT, seed=1, sampling=sampling, strength=0.7).after
    np.testing.assert_array_equal(many[:2], few)


def test_masks_in_latents_and_back():
    mask = np.zeros((8, 8), bool)
    mask[3, 5] = True
    free = latent_mask(mask, 4)
    assert free.tolist() == [[0, 1], [0, 0]]
    assert pixel_mask(free, (8, 8)).sum() == 16 and pixel_mask(free, (8, 8))[3, 5]


def test_wrong_settings_are_said(tiny: Components):
    with pytest.raises(InputError, match="no white pixel"):
        edited(tiny, 1.0, np.zeros((SIZE, SIZE), bool))
    with pytest.raises(InputError, match="where the model makes"):
        edit(tiny, np.zeros((1, 8, 8, 1), np.uint8), PROMPT, seed=0, sampling=Sampling(), strength=1.0)
