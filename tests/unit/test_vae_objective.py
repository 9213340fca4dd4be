"""The VAE's objective: what it is zero for, and what each term sees."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from medsd_ray.training.vae_objective import edge_loss, vae_loss


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_perfect_reconstruction_costs_only_its_kl(images: torch.Tensor):
    kl = torch.tensor([96.0, 192.0, 288.0])
    parts = vae_loss(images, images, kl, kl_weight=0.5, edge_weight=1.0)
    assert parts["l1"] == 0 and parts["edge"] == 0
    assert parts["kl"].item() == pytest.approx(192 / (3 * 16 * 16))
    assert parts["loss"].item() == pytest.approx(0.5 * 192 / (3 * 16 * 16))


def test_terms_add_up(images: torch.Tensor):
    other, kl = images.flip(-1), torch.ones(3)
    parts = vae_loss(images, other, kl, kl_weight=0.1, edge_weight=2.0)
    torch.testing.assert_close(parts["l1"], (images - other).abs().mean())
    torch.testing.assert_close(parts["edge"], edge_loss(images, other))
    torch.testing.assert_close(parts["loss"], parts["l1"] + 0.1 * parts["kl"] + 2.0 * parts["edge"])


def test_edges_see_contours_but_no_brightness(images: torch.Tensor):
    assert edge_loss(images, images + 0.25).item() == pytest.approx(0, abs=1e-6)
    step = torch.zeros(1, 1, 16, 16)
    step[..., 8:] = 1.0
    # One column of 15 differences of 1 at full size; 1 of 7 at half; 1 of 3 at a quarter.
    assert edge_loss(step, torch.zeros_like(step)).item() == pytest.approx((1 / 15 + 1 / 7 + 1 / 3) / 3)


def test_kl_is_the_closed_form_of_a_gaussian():
    mean, logvar = torch.randn(2, 1, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    posterior = DiagonalGaussianDistribution(torch.cat([mean, logvar], dim=1))
    x = torch.zeros(1, 3, 8, 8)
    expected = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / x[0].numel()
    torch.testing.assert_close(vae_loss(x, x, posterior.kl(), 1.0, 0.0)["loss"], expected)
