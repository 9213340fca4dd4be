"""The VAE trained alone on images: what a batch is made of, and its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from medsd_ray.data.dataset import Dataset
from medsd_ray.data.randomness import keyed_noise
from medsd_ray.models.pixels import to_uint8, vae_scale_factor
from medsd_ray.spec.components import Method
from medsd_ray.spec.run import RunSpec
from medsd_ray.training.checked_run import CheckedRun
from medsd_ray.training.stages import kinds
from medsd_ray.training.stages.diffusion import DiffusionStage
from medsd_ray.training.stages.stage import seed_of
from medsd_ray.training.vae_objective import vae_loss

if TYPE_CHECKING:
    from medsd_ray.models.components import Components

RECONSTRUCTIONS = 4


class VaeStage(DiffusionStage):
    """With the method `decoder` the encoder is frozen: its posterior does not change, so the KL term is left
    out.
    """

    kind = kinds.VAE

    def __init__(self, components: Components, run: RunSpec):
        super().__init__()
        self.vae: Any = components.vae  # diffusers annotates what encode and decode return as tuples
        self.run = run
        self.prediction_type = self.tokenizer = None
        self.decoder_only = run.methods["vae"] == Method.decoder
        self._latent_variance: Tensor | None = None

    @classmethod
    def needed_components(cls, run: RunSpec) -> tuple[str, ...]:
        return ("vae", "scheduler")

    @classmethod
    def build(cls, model: Components, checked: CheckedRun) -> Self:
        return cls(model, checked.run)

    @classmethod
    def draw_samples(
        cls, model: Components, checked: CheckedRun, dataset: Dataset
    ) -> tuple[np.ndarray, list[str]]:
        """The first images of `dataset`, (N, H, 2W, 3): each left, its reconstruction right."""
        vae: Any = model.vae
        pixels = [dataset.sample_at(position)["pixel_values"] for position in range(RECONSTRUCTIONS)]
        with torch.inference_mode():
            x = torch.stack(pixels).float().to(vae.device)
            reconstruction = vae.decode(vae.encode(x).latent_dist.mean).sample
            images = to_uint8(torch.cat([x, reconstruction], dim=-1)).cpu().numpy()
        return images, ["an image and its reconstruction"] * RECONSTRUCTIONS

    @property
    def validated(self) -> dict[str, Any]:
        """See `Stage.validated`."""
        return self.run.vae_objective.model_dump()

    @property
    def scaling_factor(self) -> float | None:
        """What brings this VAE's latents to unit variance, from the last batches; None where its encoder is
        unchanged.
        """
        return None if self._latent_variance is None else round(self._latent_variance.rsqrt().item(), 5)

    def prepare(self, sample: dict[str, Tensor], purpose: str) -> dict[str, Tensor]:
        """From pixel_values (B, 3, H, W) in [-1, 1] and positions (B,) to `pixels`, the images, and `noise`
        (B, C, h, w), the posterior's unit noise.
        """
        pixels = sample["pixel_values"].float()
        factor = vae_scale_factor(self.vae)
        shape = (self.vae.config.latent_channels, pixels.shape[-2] // factor, pixels.shape[-1] // factor)
        noise = keyed_noise(seed_of(self.run, purpose), sample["positions"], shape, f"{purpose}-posterior")
        return {"pixels": pixels, "noise": noise}

    def largest(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """All batches of so many samples are of one size."""
        return batch

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The mean loss of a prepared batch; a scalar, float32."""
        x, objective = batch["pixels"], self.run.vae_objective
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.decoder_only):
            posterior = self.vae.encode(x.to(self.vae.dtype)).latent_dist
            posterior = type(posterior)(posterior.parameters.float())
        latent = posterior.mean + posterior.std * batch["noise"]
        if torch.is_grad_enabled() and not self.decoder_only:
            variance = latent.detach().float().var()
            if self._latent_variance is None:
                self._latent_variance = variance.clone()
            else:
                self._latent_variance.lerp_(variance, 0.05)  # in place: a CUDA graph knows tensors by address
        reconstruction = self.vae.decode(latent.to(self.vae.dtype)).sample.float()
        kl = torch.zeros(len(x), device=x.device) if self.decoder_only else posterior.kl()
        return vae_loss(x, reconstruction, kl, objective.kl_weight, objective.edge_weight)["loss"]
