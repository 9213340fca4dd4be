"""The section of an exported model's card that says how plain diffusers uses a U-Net with conditions."""

from __future__ import annotations

import math

from medsd_ray.models.conditions import FREQUENCIES
from medsd_ray.spec.conditions import STEM_CHANNELS, Condition, ConditionSettings

_HEAD = """
## Use

Beside its prompt it takes conditions: {conditions}.
`medsd generate "this folder" --prompt ... --condition NAME=VALUE --masks FOLDER` gives them. diffusers has no
pipeline that does; its U-Net is a plain `UNet2DConditionModel`, for noisy latents z (B, {latents}) at t and
the prompt's embedding `text`. None is a condition that is not known:

    import math
    import torch
    from diffusers import UNet2DConditionModel
    from safetensors.torch import load_file
    from torch.nn.functional import conv2d, linear, silu

    unet = UNet2DConditionModel.from_pretrained("this folder", subfolder="unet")
    learnt = load_file("this folder/conditions/model.safetensors")

    def layer(call, name, x, **how):
        return call(x, learnt[name + ".weight"], learnt[name + ".bias"], **how)
"""

_MASKS = """
    def mask(name, pixels):  # (B, 1, {height}, {width}), 1 inside and 0 outside
        if pixels is None:
            return torch.zeros(len(z), {channels}, *z.shape[2:])
        for number in range(0, {layers}, 2):
            pixels = silu(layer(conv2d, f"stems.of_{{name}}.{{number}}", pixels, stride={stride}, padding=1))
        return torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)
"""

_NUMBERS = """
    def number(name, value, lowest, highest):
        if value is None:
            features = [0.0] * {known} + [1.0]
        else:
            x = (value - lowest) / (highest - lowest)
            angles = [math.pi * x * 2**octave for octave in range({frequencies})]
            features = [x, *map(math.sin, angles), *map(math.cos, angles), 0.0]
        return layer(linear, f"labels.of_{{name}}", torch.tensor([features]))
"""

_CATEGORIES = """
    def category(name, value, values):
        row = values.index(value) + 1 if value in values else 0
        return learnt[f"labels.of_{name}.weight"][row][None]
"""


def conditions_section(settings: ConditionSettings, latents: tuple[int, ...]) -> str:
    """The section; `latents` is the shape of the latents (C, h, w)."""
    masks, labels = settings.of_kind("mask"), settings.of_kind("number", "category")
    kinds = {one.kind for one in labels.values()}
    halvings = round(math.log2(settings.latent_factor))
    parts = [
        _HEAD.format(
            conditions="; ".join(
                f"{name}, {_in_words(one)}" for name, one in sorted(settings.conditions.items())
            ),
            latents=", ".join(map(str, latents)),
        )
    ]
    if masks:
        height, width = settings.image_size
        parts.append(
            _MASKS.format(
                height=height, width=width, channels=STEM_CHANNELS + 1, layers=2 * max(halvings, 1),
                stride=2 if halvings else 1,
            )
        )  # fmt: skip
    if "number" in kinds:
        parts.append(_NUMBERS.format(known=2 * FREQUENCIES + 1, frequencies=FREQUENCIES))
    if "category" in kinds:
        parts.append(_CATEGORIES)
    return "".join(parts) + "\n" + "".join(f"    {line}\n" for line in _calls(masks, labels))


def _calls(masks: dict[str, Condition], labels: dict[str, Condition]) -> list[str]:
    lines, sample, more = [], "z", ""
    if masks:
        lines.append(f"channels = [{', '.join(f'mask({name!r}, None)' for name in masks)}]")
        sample = "torch.cat([z, *channels], dim=1)"
    if labels:
        calls = (
            f"number({name!r}, None, {one.range[0]:g}, {one.range[1]:g})"
            if one.range
            else f"category({name!r}, None, {one.values!r})"
            for name, one in labels.items()
        )
        lines += [
            f"hidden = {' + '.join(calls)}",
            "for number_of_layer in (1, 3):",
            '    hidden = layer(linear, f"embed.{number_of_layer}", silu(hidden))',
        ]
        more = ", class_labels=hidden.expand(len(z), -1)"
    return [*lines, f"prediction = unet({sample}, t, text{more}).sample"]


def _in_words(condition: Condition) -> str:
    if condition.range:
        return f"a number from {condition.range[0]:g} to {condition.range[1]:g}"
    return "a mask" if condition.kind == "mask" else f"one of {', '.join(condition.values)}"
