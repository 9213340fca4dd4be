"""What a VAE loses of an image, in PSNR, SSIM and LPIPS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_components
from torchmetrics.image import PeakSignalNoiseRatio
from torchvision.models import alexnet

from medsd_ray.errors import InputError
from medsd_ray.evaluation.estimates import Missing
from medsd_ray.evaluation.figures.reconstruction import Vae, checked, load_lpips, psnr, vae_section

NONE = Missing("none was given")
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 1), dtype=np.uint8)


class Blurred(torch.nn.Module):
    """A VAE that gives back `share` of an image and of its mean the rest."""

    def __init__(self, share: float):
        super().__init__()
        self.share, self.config = share, {"block_out_channels": [1, 1]}

    def encode(self, x: torch.Tensor) -> Any:
        return type("Encoded", (), {"latent_dist": type("Posterior", (), {"mean": x})})

    def decode(self, x: torch.Tensor) -> Any:
        return type(
            "Decoded", (), {"sample": self.share * x + (1 - self.share) * x.mean(dim=(1, 2, 3), keepdim=True)}
        )


def section(share: float, lpips: Any = NONE, pixels: np.ndarray = PIXELS) -> dict[str, Any]:
    return vae_section(Vae("a model", "f" * 64, Blurred(share)), lpips, pixels)


def test_psnr_is_torchmetrics_of_each_image():
    one, other = (
        torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in range(2)
    )
    expected = [
        PeakSignalNoiseRatio(data_range=2.0)(a[None], b[None]) for a, b in zip(one, other, strict=True)
    ]
    torch.testing.assert_close(psnr(one, other), torch.stack(expected))


def test_a_better_vae_has_better_figures():
    good, bad = section(0.9), section(0.5)
    assert good["psnr"] > bad["psnr"] + 10 and good["ssim"] > bad["ssim"] + 0.1
    assert (
        good["images"] == 20
        and good["psnr_std"] > 0
        and good["lpips"] is None
        and good["lpips_reason"] == NONE
    )
    assert section(1.0)["psnr"] is None  # without any loss it is infinite


def test_images_that_a_vae_cannot_halve_and_a_model_that_was_not_given_are_named():
    assert "31x31 do not divide by the VAE's 2" in section(0.9, pixels=PIXELS[:, :31, :31])["ssim_reason"]
    assert vae_section(NONE, NONE, PIXELS)["psnr_reason"] == NONE


def test_lpips_reads_torchvisions_alexnet(tmp_path: Path):
    torch.manual_seed(0)
    network = alexnet()
    torch.save(network.state_dict(), tmp_path / "alexnet.pth")
    save_file(network.state_dict(), tmp_path / "alexnet.safetensors")
    loaded = load_lpips(tmp_path / "alexnet.pth")
    assert torch.equal(loaded.network.net.slice3[1].weight.cpu(), network.features[6].weight)
    good, bad = section(0.9, loaded), section(0.5, load_lpips(tmp_path / "alexnet.safetensors"))
    assert 0 <= good["lpips"] < bad["lpips"] and "sha256" in good["lpips_network"]
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="not torchvision's AlexNet"):
        load_lpips(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="name the model with --vae"):
        checked(None, tmp_path / "alexnet.pth")


def test_a_models_own_vae_is_measured():
    found = vae_section(Vae("tiny", "f" * 64, tiny_components().vae.eval()), NONE, PIXELS)
    assert 0 < found["psnr"] < 20 and found["model"] == "tiny"
