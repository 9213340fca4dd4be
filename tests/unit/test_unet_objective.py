"""The U-Net's objective against diffusers and the papers' formulas."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from medsd_ray.training.unet_objective import (
    add_noise,
    offset_noise,
    snr_weights,
    target,
    validation_timesteps,
    weighted_mse,
)


@pytest.fixture
def scheduler() -> DDPMScheduler:
    return DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)


@pytest.fixture
def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 6, 4, 5, 3, generator=generator)
    return x, noise, torch.tensor([0, 1, 250, 500, 998, 999])


def test_noising_and_targets_are_diffusers(scheduler: DDPMScheduler, drawn: tuple):
    x, noise, timesteps = drawn
    alphas = scheduler.alphas_cumprod
    torch.testing.assert_close(
        add_noise(x, noise, timesteps, alphas), scheduler.add_noise(x, noise, timesteps)
    )
    assert target(x, noise, timesteps, alphas, "epsilon") is noise
    torch.testing.assert_close(
        target(x, noise, timesteps, alphas, "v_prediction"), scheduler.get_velocity(x, noise, timesteps)
    )
    with pytest.raises(ValueError, match="sample"):
        target(x, noise, timesteps, alphas, "sample")


def test_x_and_noise_follow_from_noisy_and_v(scheduler: DDPMScheduler, drawn: tuple):
    x, noise, timesteps = drawn
    alphas = scheduler.alphas_cumprod
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    noisy, v = add_noise(x, noise, timesteps, alphas), target(x, noise, timesteps, alphas, "v_prediction")
    torch.testing.assert_close(alpha.sqrt() * noisy - (1 - alpha).sqrt() * v, x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close((1 - alpha).sqrt() * noisy + alpha.sqrt() * v, noise, atol=1e-5, rtol=1e-5)


def test_min_snr_weights(scheduler: DDPMScheduler, drawn: tuple):
    timesteps = drawn[2]
    snr = compute_snr(scheduler, timesteps)
    clipped = snr.clamp(max=5.0)
    alphas = scheduler.alphas_cumprod
    torch.testing.assert_close(snr_weights(timesteps, alphas, "epsilon", 5.0), clipped / snr)
    torch.testing.assert_close(snr_weights(timesteps, alphas, "v_prediction", 5.0), clipped / (snr + 1))
    assert torch.equal(snr_weights(timesteps, alphas, "epsilon", None), torch.ones(6))


def test_min_snr_weighs_the_same_x0_error_the_same_in_both_parametrisations(
    scheduler: DDPMScheduler, drawn: tuple
):
    """An error of x_0 by d is one of epsilon by sqrt(SNR)·d and of v by sqrt(SNR + 1)·d (Hang et al. 2023,
    sec. 3.4).
    """
    timesteps, alphas = drawn[2], scheduler.alphas_cumprod
    snr = compute_snr(scheduler, timesteps)
    as_epsilon = snr_weights(timesteps, alphas, "epsilon", 5.0) * snr
    as_v = snr_weights(timesteps, alphas, "v_prediction", 5.0) * (snr + 1)
    torch.testing.assert_close(as_epsilon, as_v)
    torch.testing.assert_close(as_epsilon, snr.clamp(max=5.0))


def test_zero_terminal_snr_gives_finite_weights():
    alphas = torch.tensor([0.9, 0.0])
    for kind in ("epsilon", "v_prediction"):
        assert snr_weights(torch.tensor([0, 1]), alphas, kind, 5.0).isfinite().all()


def test_offset_noise_moves_whole_channels():
    noise, offset = torch.zeros(2, 3, 4, 4), torch.randn(2, 3, 1, 1)
    moved = offset_noise(noise, offset, 0.1)
    assert torch.equal(moved, (0.1 * offset).expand(2, 3, 4, 4))


def test_loss_of_micro_batches_is_the_loss_of_the_batch():
    generator = torch.Generator().manual_seed(1)
    prediction, wanted = torch.randn(2, 8, 3, 2, 2, generator=generator)
    weights = torch.rand(8, generator=generator)
    whole = weighted_mse(prediction, wanted, weights)
    parts = [
        weighted_mse(prediction[i : i + 2], wanted[i : i + 2], weights[i : i + 2]) for i in range(0, 8, 2)
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)
    torch.testing.assert_close(whole, (weights[:, None, None, None] * (prediction - wanted) ** 2).mean())


@pytest.mark.parametrize(
    ("timesteps", "wanted"),
    [
        (1000, [62, 187, 312, 437, 562, 687, 812, 937]),
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (4, [0, 0, 1, 1, 2, 2, 3, 3]),
    ],
)
def test_validation_looks_at_the_middles_of_eight_parts(timesteps: int, wanted: list[int]):
    found = validation_timesteps(torch.arange(16), timesteps)
    assert found.tolist() == wanted * 2 and found.dtype == torch.int64
