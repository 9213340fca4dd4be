"""The U-Net and text encoder, trained together or alone on latents: what a batch is made of, and its loss.

All that is random (posterior sample, noise, timestep, dropped caption) is keyed by the sample's position in
the run, so that it does not depend on which worker draws it, in which batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from medsd_ray.data.conditions import PRESENT, VALUE, ConditionTargets
from medsd_ray.data.dataset import Dataset
from medsd_ray.data.randomness import keyed_integers, keyed_noise
from medsd_ray.models.conditions import predict
from medsd_ray.models.tokens import token_ids
from medsd_ray.spec.run import RunSpec
from medsd_ray.training.checked_run import CheckedRun
from medsd_ray.training.condition_dropout import dropped
from medsd_ray.training.stages import kinds
from medsd_ray.training.stages.diffusion import DiffusionStage
from medsd_ray.training.stages.stage import seed_of
from medsd_ray.training.unet_objective import (
    add_noise,
    drifted,
    offset_noise,
    snr_weights,
    target,
    validation_timesteps,
    weighted_mse,
)

if TYPE_CHECKING:
    from medsd_ray.models.components import Components


class UnetStage(DiffusionStage):
    """Holds the parts that a step needs; a frozen text encoder is none of them: its embeddings come with the
    data.
    """

    kind = kinds.UNET

    def __init__(
        self, components: Components, run: RunSpec, empty_embedding: Tensor | None, scaling_factor: float
    ):
        """`empty_embedding` (L, D) is the empty caption's, for conditioning dropout with a frozen text
        encoder.

        The U-Net sees latents times `scaling_factor`, the VAE's. `tokenizer` is the trained text encoder's.
        """
        super().__init__()
        self.unet, self.conditions = components.unet, components.conditions
        if self.conditions is not None:
            self.condition_targets = ConditionTargets(self.conditions.settings)
        self.text_encoder, self.tokenizer = components.text_encoder, components.tokenizer
        self.run, self.scheduler = run, components.scheduler
        self.prediction_type: str = (
            run.objective.prediction_type or components.scheduler.config["prediction_type"]
        )
        self.alphas_cumprod = components.scheduler.alphas_cumprod.float()
        self.empty_ids = None if self.tokenizer is None else token_ids(self.tokenizer, [""])[0]
        self.empty_embedding = empty_embedding
        self._scaling_factor = scaling_factor

    @classmethod
    def needed_components(cls, run: RunSpec) -> tuple[str, ...]:
        text = ("text_encoder", "tokenizer") if "text_encoder" in run.methods else ()
        return ("unet", "scheduler", *text)

    @classmethod
    def build(cls, model: Components, checked: CheckedRun) -> Self:
        latents = checked.latents
        assert latents is not None
        embedding = None if latents.empty_embedding is None else torch.tensor(latents.empty_embedding)
        return cls(model, checked.run, embedding, latents.scaling_factor)

    @classmethod
    def draw_samples(
        cls, model: Components, checked: CheckedRun, dataset: Dataset
    ) -> tuple[np.ndarray, list[str]]:
        """One image of each of the run's sample prompts, of the run's seed."""
        from medsd_ray.generation.sampling import sample_images

        prompts = checked.run.training.sample_prompts
        return sample_images(model, prompts, range(len(prompts)), seed=checked.run.seed), prompts

    @property
    def validated(self) -> dict[str, Any]:
        """See `Stage.validated`."""
        objective = self.run.objective
        return {
            "prediction_type": self.prediction_type,
            "snr_gamma": objective.snr_gamma,
            "noise_offset": objective.noise_offset,
            "drift": objective.drift.model_dump(include={"delta", "target"}),
        }

    @property
    def scaling_factor(self) -> float:
        """The VAE's, which the run does not change."""
        return self._scaling_factor

    def prepare(self, sample: dict[str, Tensor], purpose: str) -> dict[str, Tensor]:
        """A micro batch from the loader, noised. `purpose` "train" draws anew at each position; "validation"
        has fixed timesteps and drops no caption.

        From mean and logvar (B, C, h, w), input_ids (B, L) or text_embeddings (B, L, D) and positions (B,) to
        noisy, wanted (B, C, h, w), timesteps, weights (B,) and text_embeddings, or input_ids (K, L) of the K
        different captions and caption (B,), the row of each sample's; and the tensors of conditions (see
        `data.conditions`). With a prior B is twice as many.
        """
        prior = {
            name.removeprefix("prior_"): part for name, part in sample.items() if name.startswith("prior_")
        }
        batch = self._noised(sample, purpose)
        if prior and self.run.prior:
            batch = _mixed(batch, self._noised(prior, f"prior-{purpose}"), self.run.prior.weight)
        if "input_ids" in batch:  # reports repeat, and all dropped ones are the same: each is encoded once
            batch["input_ids"], batch["caption"] = torch.unique(
                batch["input_ids"], dim=0, return_inverse=True
            )
        return batch

    def _noised(self, sample: dict[str, Tensor], purpose: str) -> dict[str, Tensor]:
        seed, objective, positions = seed_of(self.run, purpose), self.run.objective, sample["positions"]
        mean = sample["mean"].float()
        shape = tuple(mean.shape[1:])
        std = (0.5 * sample["logvar"].float().clamp(-30, 20)).exp()
        x = (mean + std * keyed_noise(seed, positions, shape, f"{purpose}-posterior")) * self._scaling_factor
        noise = keyed_noise(seed, positions, shape, f"{purpose}-noise")
        if objective.noise_offset:
            offset = keyed_noise(seed, positions, (shape[0], 1, 1), f"{purpose}-offset")
            noise = offset_noise(noise, offset, objective.noise_offset)
        moved, aimed_at = drifted(noise, objective.drift)
        if purpose == "validation":
            timesteps = validation_timesteps(positions, len(self.alphas_cumprod))
        else:
            timesteps = keyed_integers(seed, positions, len(self.alphas_cumprod), f"{purpose}-timestep")
        batch = {
            "noisy": add_noise(x, moved, timesteps, self.alphas_cumprod),
            "wanted": target(x, aimed_at, timesteps, self.alphas_cumprod, self.prediction_type),
            "timesteps": timesteps,
            "weights": snr_weights(timesteps, self.alphas_cumprod, self.prediction_type, objective.snr_gamma),
        }
        share = objective.conditioning_dropout if purpose.endswith("train") else 0.0
        names = [] if self.conditions is None else sorted(self.conditions.settings.conditions)
        lost = dropped(seed, positions, 1 + len(names), share, purpose)  # the prompt first
        for number, name in enumerate(names, start=1):
            batch[VALUE + name] = sample[VALUE + name]
            batch[PRESENT + name] = sample[PRESENT + name] & ~lost[:, number]
        without_text = lost[:, 0]
        if self.empty_ids is not None:
            batch["input_ids"] = torch.where(without_text[:, None], self.empty_ids, sample["input_ids"])
        else:
            assert self.empty_embedding is not None
            batch["text_embeddings"] = torch.where(
                without_text[:, None, None], self.empty_embedding.float(), sample["text_embeddings"].float()
            )
        return batch

    def largest(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """With the text encoder: no two samples of a later batch may have the same caption."""
        if "caption" not in batch:
            return batch
        ids = batch["input_ids"][batch["caption"]]
        return batch | {"input_ids": ids, "caption": torch.arange(len(ids), device=ids.device)}

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The mean weighted loss of a prepared batch; a scalar, float32."""
        if self.text_encoder is not None:
            text = self.text_encoder(batch["input_ids"])[0][batch["caption"]]
        else:
            text = batch["text_embeddings"]
        dtype = self.unet.dtype
        prediction = predict(
            self.unet, self.conditions, batch["noisy"].to(dtype), batch["timesteps"], text.to(dtype), batch
        )
        return weighted_mse(prediction, batch["wanted"], batch["weights"])


def _mixed(batch: dict[str, Tensor], prior: dict[str, Tensor], weight: float) -> dict[str, Tensor]:
    """Both batches in one, whose mean weighted loss is L + weight·L_prior: prior preservation, which keeps
    the class as the model knows it while it learns new images (Ruiz et al. 2023, DreamBooth, arXiv
    2208.12242, eq. 2).
    """
    # The mean over twice as many samples halves each term.
    weights = {"weights": torch.cat([2 * batch["weights"], 2 * weight * prior["weights"]])}
    return {name: torch.cat([part, prior[name]]) for name, part in batch.items()} | weights
