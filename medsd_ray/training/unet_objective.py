"""What the U-Net learns: noising, targets and weights as plain functions of tensors.

All take latents `x` of shape (batch, channels, height, width), float32, and integer `timesteps` of shape
(batch,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from medsd_ray.spec.objective import Drift

VALIDATION_TIMESTEPS = 8
"""Timesteps at which validation looks."""


def validation_timesteps(positions: Tensor, timesteps: int) -> Tensor:
    """floor((k mod 8 + 0.5) T / 8) of the samples at `positions` (B,) k, for T `timesteps`; int64 (B,).

    The middles of eight equal parts, the same in every run, so that losses of two runs can be compared, as
    MLPerf Training does for text-to-image models.
    """
    n = VALIDATION_TIMESTEPS
    return (2 * (positions % n) + 1) * timesteps // (2 * n)


def _per_sample(values: Tensor, timesteps: Tensor) -> Tensor:
    return values.to(timesteps.device)[timesteps].view(-1, 1, 1, 1)


def add_noise(x: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """q(x_t | x_0): sqrt(ā_t)·x + sqrt(1 - ā_t)·noise (Ho et al. 2020, arXiv 2006.11239, eq. 4)."""
    alpha = _per_sample(alphas_cumprod, timesteps)
    return alpha.sqrt() * x + (1 - alpha).sqrt() * noise


def drifted(noise: Tensor, drift: Drift) -> tuple[Tensor, Tensor]:
    """The noise that latents get, ε' = ε + δ, and the one that the target holds: Latent Drifting (Yeganeh et
    al. 2025, arXiv 2412.20651; what is inferred says models/drift.py). Without drift both are `noise` itself.
    """
    if not drift.delta:
        return noise, noise
    moved = noise + drift.delta
    return moved, moved if drift.target == "shifted" else noise


def target(
    x: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, prediction_type: str
) -> Tensor:
    """`epsilon`: the noise. `v_prediction`: sqrt(ā_t)·noise - sqrt(1 - ā_t)·x (Salimans & Ho 2022, arXiv
    2202.00512, app. D).
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        alpha = _per_sample(alphas_cumprod, timesteps)
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * x
    raise ValueError(f"prediction_type {prediction_type!r} is not epsilon or v_prediction")


def snr_weights(
    timesteps: Tensor, alphas_cumprod: Tensor, prediction_type: str, snr_gamma: float | None
) -> Tensor:
    """min-SNR-γ weight of each sample, shape (batch,) (Hang et al. 2023, arXiv 2303.09556, sec. 3.4).

    With SNR = ā / (1 - ā), the x_0 loss is weighted by min(SNR, γ). In epsilon's terms that is min(SNR, γ) /
    SNR, in v's min(SNR, γ) / (SNR + 1). None: all ones.
    """
    if snr_gamma is None:
        return torch.ones_like(timesteps, dtype=torch.float32)
    alpha = alphas_cumprod.to(timesteps.device)[timesteps].float()
    snr = alpha / (1 - alpha)
    clipped = snr.clamp(max=snr_gamma)
    # ā = 0 (zero terminal SNR) makes SNR 0: for epsilon the weight's limit there is 1.
    return (
        clipped / (snr + 1) if prediction_type == "v_prediction" else torch.where(snr > 0, clipped / snr, 1.0)
    )


def offset_noise(noise: Tensor, offset: Tensor, noise_offset: float) -> Tensor:
    """noise + noise_offset·offset, with one draw of `offset` (batch, channels, 1, 1) a channel (Guttenberg
    2023).
    """
    return noise + noise_offset * offset


def weighted_mse(prediction: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Mean over the batch of weight · mean squared error of a sample; a scalar, float32."""
    error = (prediction.float() - wanted.float()).square().mean(dim=(1, 2, 3))
    return (weights * error).mean()
