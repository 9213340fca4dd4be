"""What a run of the diffusion model learns: the losses of the U-Net and of the VAE."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medsd_ray.spec.images import DRIFT, STEPS, DriftWhere
from medsd_ray.spec.rules import SpecModel
from medsd_ray.spec.types import Address, Weight


class Drift(SpecModel):
    """Latent Drifting (Yeganeh et al. 2025): the noise has the mean delta instead of 0, in training and, as
    `where` says, when images are sampled; see models/drift.py.
    """

    delta: float = Field(
        default=0.0, ge=DRIFT.lowest, le=DRIFT.highest, description="mean of the noise; 0: no drift"
    )
    target: Literal["shifted", "plain"] = Field(
        default="shifted", description="the noise that the U-Net learns to predict: with its mean or without"
    )
    where: DriftWhere = Field(
        default="per_step",
        description="at sampling, beside the initial noise: per_step adds delta to the latents after each "
        "step, scaled_by_sigma to the predicted noise (exact with the target plain), init_only nothing "
        "(exact with the target shifted)",
    )
    steps: int = Field(
        default=STEPS.default,
        ge=STEPS.lowest,
        le=STEPS.highest,
        description="denoising steps with which delta was chosen: per_step adds it at each, so another "
        "number of steps at sampling is warned of",
    )


class Objective(SpecModel):
    """What the U-Net learns; see training/unet_objective.py for the equations."""

    prediction_type: Literal["epsilon", "v_prediction"] | None = Field(
        default=None, description="the model's own where absent"
    )
    snr_gamma: float | None = Field(
        default=5.0, gt=0, le=1e6, description="min-SNR weighting (Hang et al. 2023); null: none"
    )
    noise_offset: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="noise that is the same for all pixels of a channel is added with this weight, for "
        "brighter and darker images; 0: none",
    )
    conditioning_dropout: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="share of captions left empty, for guidance; with conditions, of samples that lose "
        "prompt and conditions, of those that keep one alone, and of each one that the others lose",
    )
    drift: Drift = Drift()


class VaeObjective(SpecModel):
    """What the VAE learns: |x - x̂| + kl_weight·KL + edge_weight·|∇x - ∇x̂|; see
    training/vae_objective.py.
    """

    kl_weight: Weight = Field(default=0.02, description="times the KL divergence per pixel value")
    edge_weight: Weight = Field(
        default=1.0, description="times the absolute difference of the images' gradients"
    )


class Prior(SpecModel):
    """Prior preservation (Ruiz et al. 2023): loss + weight · loss on images that the model itself made of the
    class.
    """

    data: Address = Field(
        description="latent shards of class images: what generate, prepare and encode made; folder or s3://"
    )
    weight: float = Field(default=1.0, gt=0, le=1e6, description="times the loss on the class images")
