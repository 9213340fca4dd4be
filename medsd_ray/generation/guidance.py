"""How a prompt and several conditions guide an image together, and the loop that follows them.

With ε(0) the prediction without any condition, ε(c) with all of them and ε(c_i) with one alone:

    joint        ε(0) + w (ε(c) - ε(0))              classifier-free guidance (Ho & Salimans 2022, arXiv
                                                     2207.12598, eq. 6, w + 1 there), two passes of the U-Net
    independent  ε(0) + Σ w_i (ε(c_i) - ε(0))        a product of conditions that are independent given the
                                                     image (Liu et al. 2022, arXiv 2206.01714, eq. 11), one
                                                     pass for each and one more

The prompt is a condition like any, with the weight `guidance_scale`. Of one condition alone both are the
same. What the U-Net predicts (noise, or v) is linear in ε at given z_t, so the sums are taken of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from medsd_ray.data.conditions import PRESENT, Given, condition_tensors
from medsd_ray.models.conditions import ConditionModule, predict
from medsd_ray.spec.images import Guidance, Sampling


def joint(without: Tensor, together: Tensor, weight: float) -> Tensor:
    """ε(0) + w (ε(c) - ε(0)), all of one shape."""
    return without + weight * (together - without)


def independent(without: Tensor, alone: Sequence[tuple[float, Tensor]]) -> Tensor:
    """ε(0) + Σ w_i (ε(c_i) - ε(0)) of pairs (w_i, ε(c_i)), all of one shape."""
    guided = without
    for weight, predicted in alone:
        guided = guided + weight * (predicted - without)
    return guided


@dataclass(frozen=True)
class Guided:
    """What the U-Net is asked, and how its answers are put together, for B images."""

    unet: Any
    conditions: ConditionModule
    text: Tensor
    """(B, L, D), of the prompts."""
    empty: Tensor
    """(B, L, D), of what stands for no prompt."""
    values: Mapping[str, Tensor]
    """The tensors of the conditions (see `data.conditions`)."""
    scale: float
    """The prompt's weight."""
    guidance: Guidance

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        """The guided prediction for latents z (B, C, h, w) at t."""
        given = [name for name in sorted(self.conditions.settings.conditions) if self._there(name).any()]
        if self.guidance.kind == "joint":
            together = self._predicted(z, t, self.text, given)
            if self.scale == 1:
                return together
            return joint(self._predicted(z, t, self.empty, []), together, self.scale)
        weights = {name: self.guidance.weight_of(name, self.scale) for name in given}
        alone = [(self.scale, self._predicted(z, t, self.text, []))]
        alone += [(weights[name], self._predicted(z, t, self.empty, [name])) for name in given]
        return independent(self._predicted(z, t, self.empty, []), alone)

    def _there(self, name: str) -> Tensor:
        return self.values[PRESENT + name]

    def _predicted(self, z: Tensor, t: Tensor, text: Tensor, names: list[str]) -> Tensor:
        """With these of the conditions alone. Each is a pass of its own, of one shape whatever is given."""
        known = self.conditions.settings.conditions
        shown = {
            PRESENT + name: self._there(name) if name in names else torch.zeros_like(self._there(name))
            for name in known
        }
        return predict(self.unet, self.conditions, z, t, text, {**self.values, **shown})


def denoise_with_conditions(
    pipeline: StableDiffusionPipeline,
    conditions: ConditionModule,
    prompts: list[str],
    given: Sequence[Mapping[str, Given]],
    noise: Tensor,
    sampling: Sampling,
    guidance: Guidance,
) -> Tensor:
    """Latents (B, C, h, w) of the images of these prompts and conditions, from noise of that shape; as the
    U-Net sees them. Raises ValueError where a condition is given what it does not take.
    """
    device, unet = pipeline.device, pipeline.unet
    scheduler: Any = pipeline.scheduler
    text, empty = pipeline.encode_prompt(
        prompts, device, 1, True, negative_prompt=[sampling.negative_prompt] * len(prompts)
    )
    assert empty is not None
    rows = [condition_tensors(conditions.settings, one) for one in given]
    values = {name: torch.stack([row[name] for row in rows]).to(device) for name in rows[0]}
    guided = Guided(unet, conditions, text, empty, values, sampling.guidance_scale, guidance)
    scheduler.set_timesteps(sampling.steps, device=device)
    z = noise.to(device, unet.dtype) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        predicted = guided(scheduler.scale_model_input(z, t), t)
        z = scheduler.step(predicted, t, z, return_dict=False)[0]
    return z
