"""Makes `medsd-small`: `make base-model`, or `python -m medsd_ray.base_model.pretrain [--out FOLDER] [--work
FOLDER]`.

Draws images in many styles (data/phantom.py, never an effusion), trains the VAE on them, encodes them, then
trains the U-Net and text encoder together. One process, about three quarters of an hour on two cores; run
again, it goes on from its last save. A plain loop, not Ray Train: this runs once, on the machine of whoever
prepares a release.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medsd_ray.base_model.architecture import IMAGE_SIZE, build_small
from medsd_ray.data.sources.phantom_base import draw_base
from medsd_ray.models.components import Components
from medsd_ray.models.pixels import to_unit_range
from medsd_ray.models.save import save_pipeline
from medsd_ray.models.tokens import token_ids
from medsd_ray.training.unet_objective import add_noise, snr_weights, target, weighted_mse
from medsd_ray.training.vae_objective import vae_loss

IMAGES = 16_000
VAE_STEPS, VAE_BATCH, VAE_LEARNING_RATE = 3000, 16, 1e-3
KL_WEIGHT, EDGE_WEIGHT = 0.02, 1.0
UNET_STEPS, UNET_BATCH, UNET_LEARNING_RATE = 4000, 32, 6e-4
SNR_GAMMA, CONDITIONING_DROPOUT, EMA_DECAY = 5.0, 0.1, 0.999
SAVE_EVERY = 100
"""Steps between two saves."""

CARD = """# medsd-small

A small latent diffusion model in Stable Diffusion's layout: VAE (64x64 pixels to 8x8x8 latents), CLIP-layout
text encoder (32 tokens), U-Net with cross-attention, v-prediction. It plays Stable Diffusion's part where
there is no GPU: a general model to be adapted. Research use only; its images are drawings, not medicine.

Pretrained from random weights on {images} images that medsd draws itself
(`medsd_ray/data/sources/phantom.py`): a chest in nine styles, none with an effusion. No patient's image or
report was used.

Command: `make base-model` (seed {seed}; VAE {vae_steps} steps, then U-Net and text encoder {unet_steps}
steps; two CPU cores). Weights are stored in half precision and loaded in single precision.
"""


def pretrain(
    out: Path,
    work: Path,
    seed: int,
    *,
    images: int = IMAGES,
    vae_steps: int = VAE_STEPS,
    unet_steps: int = UNET_STEPS,
) -> None:
    """Trains the base model from random weights and writes it as a pipeline folder.

    Args:
        out: The folder of the pipeline, in diffusers' layout; files of the same names are replaced.
        work: The folder of the saves, which a second call with the same arguments goes on from.
        seed: What the images, the first weights and the noise of each step follow from.
        images: How many images are drawn.
        vae_steps: Optimizer steps of the VAE, of VAE_BATCH images each.
        unet_steps: Optimizer steps of U-Net and text encoder together, of UNET_BATCH images each.
    """
    work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    components = build_small(seed)
    drawn, captions = draw(images, seed)
    print(f"drew {images} images in {time.monotonic() - started:.0f} s", flush=True)
    train_vae(components, drawn, work, seed, vae_steps)
    train_unet(components, drawn, captions, work, seed, unet_steps)
    card = CARD.format(seed=seed, vae_steps=vae_steps, unet_steps=unet_steps, images=images)
    write(components, out, card)


def draw(count: int, seed: int) -> tuple[Tensor, list[str]]:
    """(count, 1, 64, 64) uint8 images and their captions."""
    samples = [draw_base(seed, index, IMAGE_SIZE) for index in range(count)]
    return torch.from_numpy(np.stack([np.asarray(s.image) for s in samples]))[:, None], [
        s.caption for s in samples
    ]


def fit(
    name: str,
    module: nn.Module,
    loss_of: Callable[[int, torch.Generator], Tensor],
    steps: int,
    learning_rate: float,
    work: Path,
    seed: int,
) -> dict[str, Tensor]:
    """Adam with warm-up and cosine, EMA, and a save to go on from each SAVE_EVERY steps. Returns the EMA's
    weights.
    """
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=1e-4)
    ema = {k: v.detach().clone() for k, v in module.state_dict().items()}
    path, first = work / f"{name}.pt", 0
    if path.is_file():
        state = torch.load(path, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        ema, first = state["ema"], state["step"]
        print(f"{name}: going on from step {first}", flush=True)
    started, mean = time.monotonic(), None
    for step in range(first, steps):
        factor = min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * factor
        loss = loss_of(step, torch.Generator().manual_seed(seed * 1_000_003 + step))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            for key, value in module.state_dict().items():
                if value.is_floating_point():
                    ema[key].lerp_(value, 1 - decay)
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            part = path.with_suffix(".part")
            torch.save(
                {
                    "module": module.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "ema": ema,
                    "step": step + 1,
                },
                part,
            )
            part.replace(path)
            left = (time.monotonic() - started) / (step + 1 - first) * (steps - step - 1)
            print(f"{name}: step {step + 1}/{steps}, loss {mean:.4f}, {left / 60:.1f} min left", flush=True)
    return ema


def posterior_moments(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior means and standard deviations, (n, channels, 8, 8) each, unscaled."""
    with torch.inference_mode():
        parts = [vae.encode(to_unit_range(batch)).latent_dist for batch in images.split(64)]
        return torch.cat([p.mean for p in parts]).clone(), torch.cat([p.std for p in parts]).clone()


def train_vae(components: Components, images: Tensor, work: Path, seed: int, steps: int) -> None:
    """Trains the VAE, and sets the factor that brings its latents to unit variance."""
    vae: Any = components.vae  # diffusers annotates what encode and decode return as tuples

    def loss_of(step: int, rng: torch.Generator) -> Tensor:
        x = to_unit_range(images[torch.randint(len(images), (VAE_BATCH,), generator=rng)])
        posterior = vae.encode(x).latent_dist
        latent = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=rng)
        return vae_loss(x, vae.decode(latent).sample, posterior.kl(), KL_WEIGHT, EDGE_WEIGHT)["loss"]

    vae.load_state_dict(fit("vae", vae, loss_of, steps, VAE_LEARNING_RATE, work, seed))
    mean, std = posterior_moments(vae, images[:2048])
    # U-Nets learn best on latents of unit variance; Stable Diffusion's 0.18215 is the same number of its VAE.
    vae.register_to_config(scaling_factor=round(1 / (mean + std * torch.randn_like(mean)).std().item(), 5))


def train_unet(
    components: Components, images: Tensor, captions: list[str], work: Path, seed: int, steps: int
) -> None:
    """Trains the U-Net and the text encoder together, on latents of the trained VAE."""
    vae: Any = components.vae
    unet: Any = components.unet
    scheduler: Any = components.scheduler
    ids = token_ids(components.tokenizer, [*captions, ""])
    empty = ids[-1]
    mean, std = posterior_moments(vae, images)
    both = nn.ModuleDict({"unet": unet, "text_encoder": components.text_encoder})

    def loss_of(step: int, rng: torch.Generator) -> Tensor:
        rows = torch.randint(len(images), (UNET_BATCH,), generator=rng)
        x = (
            mean[rows] + std[rows] * torch.randn(mean[rows].shape, generator=rng)
        ) * vae.config.scaling_factor
        noise = torch.randn(x.shape, generator=rng)
        timesteps = torch.randint(scheduler.config.num_train_timesteps, (UNET_BATCH,), generator=rng)
        tokens = ids[rows].clone()
        tokens[torch.rand(UNET_BATCH, generator=rng) < CONDITIONING_DROPOUT] = empty
        alphas, kind = scheduler.alphas_cumprod, scheduler.config.prediction_type
        noisy = add_noise(x, noise, timesteps, alphas)
        prediction = unet(noisy, timesteps, components.text_encoder(tokens)[0]).sample
        wanted = target(x, noise, timesteps, alphas, kind)
        return weighted_mse(prediction, wanted, snr_weights(timesteps, alphas, kind, SNR_GAMMA))

    both.load_state_dict(fit("unet", both, loss_of, steps, UNET_LEARNING_RATE, work, seed + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "medsd_small", help="folder for the pipeline"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(".cache/base-model"),
        help="folder for what a second run goes on from",
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)  # tiny activations would slow a CPU several times
    pretrain(arguments.out, arguments.work, arguments.seed)


def write(components: Components, out: Path, card: str) -> None:
    """The pipeline folder, weights in half precision so that it fits in a package, and its model card."""
    for module in (components.vae, components.text_encoder, components.unet):
        module.half()
    save_pipeline(components, out)
    (out / "README.md").write_text(card)
    index = out / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"grayscale": True}, indent=2) + "\n")


if __name__ == "__main__":
    main()
