"""What brings masks, numbers and categories to the U-Net, and a U-Net that takes them.

Masks go in beside the noisy latents z_t, as channels of the U-Net's first convolution (Krishna et al. 2025,
doi 10.1088/1361-6560/adb9b3, condition a diffusion model of lung CT on several masks; its text is not open,
and this form is that of Dorjsembe et al. 2023, arXiv 2305.18453). Each mask comes down from its full
resolution to the latents' size by a stem of strided convolutions, and a channel beside it says that the mask
is there: none is not an empty one. Numbers and categories are added to the time embedding.

The widened convolution W * [z_t, m] + b = (W_z * z_t + b) + W_m * m is kept in its two summands: W_z and b
stay the U-Net's own, which any method may train, and W_m is a parameter here. W_m and the last layer of the
embedding start at zero, so that at first the U-Net is the base model to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medsd_ray.data.conditions import PRESENT, VALUE, condition_tensors
from medsd_ray.errors import InputError
from medsd_ray.spec.conditions import STEM_CHANNELS, ConditionSettings

if TYPE_CHECKING:  # the driver asks a stage's class before diffusers, which takes seconds, is imported
    from diffusers import UNet2DConditionModel

STEM_WIDTH, EMBEDDING_WIDTH = 16, 128
FREQUENCIES = 4
"""Octaves in which a number between 0 and 1 is told apart."""


class AddedInput(nn.Conv2d):
    """The U-Net's first convolution, of the latents' channels; what comes behind them is added to its
    output.
    """

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input[:, : self.in_channels]) + input[:, self.in_channels :]


class ConditionModule(nn.Module):
    """From the tensors of `data.conditions`, stacked, to what the U-Net takes."""

    def __init__(self, settings: ConditionSettings, unet: UNet2DConditionModel):
        """Of the U-Net only sizes are read."""
        super().__init__()
        self.settings = settings
        conv_in: nn.Conv2d = unet.conv_in
        masks, labels = settings.of_kind("mask"), settings.of_kind("number", "category")
        # Names of conditions may be those of a module's own attributes, hence the prefix.
        self.stems = nn.ModuleDict({_key(name): _stem(settings.latent_factor) for name in masks})
        self.labels = nn.ModuleDict(
            {
                _key(name): nn.Embedding(len(one.values) + 1, EMBEDDING_WIDTH)
                if one.kind == "category"
                else nn.Linear(2 * FREQUENCIES + 2, EMBEDDING_WIDTH)
                for name, one in labels.items()
            }
        )
        self.mask_in = self.embed = None
        if masks:
            self.mask_in = nn.Conv2d(
                settings.mask_channels,
                conv_in.out_channels,
                conv_in.kernel_size,  # type: ignore[arg-type]
                padding=conv_in.padding,  # type: ignore[arg-type]
                bias=False,
            )
            nn.init.zeros_(self.mask_in.weight)
        if labels:
            time_embedding: Any = unet.time_embedding
            last = nn.Linear(EMBEDDING_WIDTH, time_embedding.linear_2.out_features)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            inner = nn.Linear(EMBEDDING_WIDTH, EMBEDDING_WIDTH)
            self.embed = nn.Sequential(nn.SiLU(), inner, nn.SiLU(), last)

    def forward(self, values: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """What the masks add to the output of the U-Net's first convolution, (B, channels, h, w), and what
        numbers and categories add to its time embedding, (B, width); None where there are none of a kind.
        """
        channels = self.mask_channels(values)
        return (
            None if self.mask_in is None or channels is None else self.mask_in(channels),
            self.embedding(values),
        )

    def mask_channels(self, values: Mapping[str, Tensor]) -> Tensor | None:
        """(B, mask_channels, h, w): of each mask its stem's, and 1 where it is there; zeros where not."""
        if self.mask_in is None:
            return None
        parts = []
        for name in self.settings.of_kind("mask"):
            mask = values[VALUE + name][:, None].to(self.mask_in.weight.dtype)
            found = self.stems[_key(name)](mask)
            there = values[PRESENT + name].to(found.dtype).view(-1, 1, 1, 1)
            parts += [found * there, there.expand(-1, 1, *found.shape[2:])]
        return torch.cat(parts, dim=1)

    def embedding(self, values: Mapping[str, Tensor]) -> Tensor | None:
        """(B, width) for the time embedding, of what is null too."""
        if self.embed is None:
            return None
        parts = []
        for name, condition in self.settings.of_kind("number", "category").items():
            value, there = values[VALUE + name], values[PRESENT + name]
            layer: Any = self.labels[_key(name)]
            if condition.kind == "category":
                parts.append(layer(torch.where(there, value + 1, 0)))  # row 0 is null's
            else:
                parts.append(layer(_features(value, there).to(layer.weight.dtype)))
        return self.embed(torch.stack(parts).sum(dim=0))

    def null(self, count: int, device: torch.device) -> dict[str, Tensor]:
        """The tensors of `count` samples of which no condition is known."""
        rows = condition_tensors(self.settings, {})
        return {name: row.expand(count, *row.shape).to(device) for name, row in rows.items()}


def _key(name: str) -> str:
    return f"of_{name}"


def _stem(factor: int) -> nn.Sequential:
    """(B, 1, H, W) -> (B, STEM_CHANNELS, H / factor, W / factor)."""
    halvings = round(math.log2(factor))
    widths = [1, *[STEM_WIDTH] * (max(halvings, 1) - 1), STEM_CHANNELS]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2 if halvings else 1, padding=1), nn.SiLU()]
    return nn.Sequential(*layers)


def _features(value: Tensor, there: Tensor) -> Tensor:
    """(B,) from 0 to 1 -> (B, 2·FREQUENCIES + 2): the number, sin(πx·2^k) and cos(πx·2^k), and whether it is
    null, whose weights are what is learnt of that; float32.
    """
    angles = math.pi * value[:, None].float() * 2.0 ** torch.arange(FREQUENCIES, device=value.device)
    features = torch.cat([value[:, None].float(), angles.sin(), angles.cos()], dim=1)
    return torch.cat([features * there[:, None], (~there[:, None]).float()], dim=1)


def attach(unet: UNet2DConditionModel, conditions: ConditionModule) -> None:
    """Makes the U-Net take what the module gives, in place; it computes the same as before. Raises InputError
    for a U-Net that takes classes of its own.
    """
    if conditions.embed is not None:
        if not isinstance(unet.class_embedding, nn.Identity | None):
            raise InputError(
                "the model's U-Net takes classes of its own; choose one without, or no number or category"
            )
        unet.class_embedding = nn.Identity()
    if conditions.mask_in is not None and not isinstance(unet.conv_in, AddedInput):
        old: nn.Conv2d = unet.conv_in
        new: Any = nn.utils.skip_init(
            AddedInput, old.in_channels, old.out_channels, old.kernel_size, padding=old.padding
        )
        new.weight, new.bias = old.weight, old.bias
        unet.conv_in = new.train(old.training)


def predict(
    unet: Any,
    conditions: ConditionModule | None,
    z: Tensor,
    t: Tensor,
    text: Tensor,
    values: Mapping[str, Tensor],
) -> Tensor:
    """The U-Net's prediction for noisy latents z (B, C, h, w) of its dtype, at t, with the text's embedding
    and the conditions' tensors.
    """
    if conditions is None:
        return unet(z, t, text).sample
    added, labels = conditions(values)
    sample = z if added is None else torch.cat([z, added.to(z.dtype)], dim=1)
    return unet(sample, t, text, class_labels=labels).sample
