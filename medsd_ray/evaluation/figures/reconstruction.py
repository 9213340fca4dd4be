"""How well a VAE carries images: x against its reconstruction D(E(x)) from the posterior's mean, image by
image.

PSNR, SSIM (Wang et al. 2004, doi 10.1109/TIP.2003.819861) and, where AlexNet's weights are given, LPIPS
(Zhang et al. 2018, arXiv 1801.03924, eq. 1): what a VAE loses here, no U-Net trained on its latents can bring
back.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from medsd_ray.errors import InputError
from medsd_ray.evaluation.estimates import Missing, put
from medsd_ray.evaluation.networks.batches import BATCH, device
from medsd_ray.evaluation.networks.weights import as_state, check_shapes, read_weights
from medsd_ray.models.load import load_components
from medsd_ray.models.pixels import to_unit_range, vae_scale_factor
from medsd_ray.models.resolve import model_fingerprint

FIGURES = ("psnr", "ssim", "lpips")


@dataclass(frozen=True)
class Vae:
    model: str
    fingerprint: str
    module: Any


@dataclass(frozen=True)
class Lpips:
    description: str
    network: Any


def load_vae(model: str) -> Vae:
    """Raises InputError where the model cannot be loaded."""
    return Vae(model, model_fingerprint(model, only=("vae",)), load_components(model, only=("vae",)).vae)


def load_lpips(path: Path) -> Lpips:
    """LPIPS over AlexNet from torchvision's weight file; its linear layers come with torchmetrics. Raises
    InputError.
    """
    from torchmetrics.functional.image.lpips import _LPIPS

    state = as_state(read_weights(path), path)
    network = _LPIPS(pretrained=True, net="alex", pnet_rand=True)
    known = dict(network.net.named_parameters())  # slice2.3.weight, where torchvision says features.3.weight
    wanted = {name: f"features.{name.partition('.')[2]}" for name in known}
    check_shapes(
        state, {wanted[name]: tuple(p.shape) for name, p in known.items()}, path, "torchvision's AlexNet"
    )
    network.net.load_state_dict({name: state[wanted[name]] for name in known})
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Lpips(f"LPIPS over AlexNet (weights sha256 {sha256[:12]})", network.to(device()).eval())


def vae_section(vae: Vae | Missing, lpips: Lpips | Missing, pixels: np.ndarray) -> dict[str, Any]:
    """Mean and deviation over images of each figure; `pixels` (N, H, W, C) uint8 are held-out real images."""
    section: dict[str, Any] = {"model": None, "fingerprint": None, "images": 0}
    if isinstance(vae, Missing):
        for name in FIGURES:
            put(section, name, vae)
        return section
    section |= {"model": vae.model, "fingerprint": vae.fingerprint}
    factor = vae_scale_factor(vae.module)
    if any(size % factor for size in pixels.shape[1:3]):
        for name in FIGURES:
            put(
                section,
                name,
                Missing(f"images of {pixels.shape[2]}x{pixels.shape[1]} do not divide by the VAE's {factor}"),
            )
        return section
    section["images"] = len(pixels)
    found = _measure(vae.module.to(device()), lpips, pixels)
    for name in FIGURES:
        value = found[name]
        put(section, name, value if isinstance(value, Missing) else float(value.mean()))
        if isinstance(value, Tensor):
            section[f"{name}_std"] = float(value.std(correction=0))
    if isinstance(lpips, Lpips):
        section["lpips_network"] = lpips.description
    return section


@torch.inference_mode()
def _measure(module: Any, lpips: Lpips | Missing, pixels: np.ndarray) -> dict[str, Tensor | Missing]:
    """Each figure of each image, (N,) float64 on the CPU."""
    parts: dict[str, list[Tensor]] = {name: [] for name in FIGURES}
    for start in range(0, len(pixels), BATCH):
        x = to_unit_range(torch.from_numpy(pixels[start : start + BATCH]).to(device()).permute(0, 3, 1, 2))
        again = module.decode(module.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        parts["psnr"].append(psnr(again, x))
        parts["ssim"].append(structural_similarity_index_measure(again, x, reduction="none", data_range=2.0))  # type: ignore[arg-type]
        if isinstance(lpips, Lpips):
            parts["lpips"].append(lpips.network(again, x).flatten())
    found: dict[str, Any] = {name: torch.cat(part).double().cpu() for name, part in parts.items() if part}
    return found if isinstance(lpips, Lpips) else found | {"lpips": lpips}


def psnr(one: Tensor, other: Tensor) -> Tensor:
    """10·log₁₀(L²/MSE) of each image; (B, C, H, W) in [-1, 1], so L = 2, to (B,)."""
    return peak_signal_noise_ratio(one, other, data_range=2.0, reduction="none", dim=(1, 2, 3))


def checked(vae: str | None, lpips: Path | None) -> tuple[Vae | Missing, Lpips | Missing]:
    """What `medsd evaluate` names, loaded, or why it is not there. Raises InputError for LPIPS without a
    VAE.
    """
    if lpips and not vae:
        raise InputError("--lpips measures a VAE's reconstructions; name the model with --vae")
    return (
        load_vae(vae) if vae else Missing("no model was given (--vae)"),
        load_lpips(lpips) if lpips else Missing("no weight file of AlexNet was given (--lpips)"),
    )
