"""What a run of the diffusion model learns: the losses of the U-Net and of the VAE."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medsd_ray.spec.rules import SpecModel
from medsd_ray.spec.types import Address, Weight


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
        default=0.1, ge=0, lt=1, description="share of captions left empty, for guidance"
    )


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
