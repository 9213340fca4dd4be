"""The conditions of an exported pipeline: a U-Net that plain diffusers loads, and beside it what it is given.

The folder's U-Net has the widened first convolution as diffusers has it, weights [W_z, W_m], and takes the
embedding of numbers and categories as `class_labels` (`class_embed_type: identity`). `conditions/` has
config.json, which names the conditions, and model.safetensors, all other weights of models/conditions.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn

from medsd_ray.documents import json_object
from medsd_ray.errors import InputError
from medsd_ray.models.conditions import ConditionModule, attach
from medsd_ray.models.layout import CONDITIONS_FILE
from medsd_ray.spec.conditions import CONDITIONS, parse_settings

WEIGHTS = f"{CONDITIONS}/model.safetensors"
MASK_IN = "mask_in.weight"
"""W_m, which is part of the folder's U-Net."""


def widened(unet: UNet2DConditionModel, conditions: ConditionModule) -> UNet2DConditionModel:
    """A U-Net of diffusers' own that computes the same from [z_t, mask channels] and labels' embedding."""
    # diffusers drops what stands in that list, whatever the configuration says of it.
    config = {name: value for name, value in unet.config.items() if name != "_use_default_values"}
    state = {name: value.detach() for name, value in unet.state_dict().items()}
    if conditions.mask_in is not None:
        config["in_channels"] += conditions.settings.mask_channels
        state["conv_in.weight"] = torch.cat(
            [state["conv_in.weight"], conditions.mask_in.weight.detach()], dim=1
        )
    if conditions.embed is not None:
        config["class_embed_type"] = "identity"
    made: Any = UNet2DConditionModel.from_config(config)
    made.load_state_dict(state)
    return made.eval()


def save_conditions(conditions: ConditionModule, folder: Path) -> None:
    """Writes `conditions/` into a pipeline's folder whose U-Net is `widened`."""
    (folder / CONDITIONS).mkdir()
    settings = conditions.settings.model_dump(mode="json")
    (folder / CONDITIONS_FILE).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", "utf-8")
    weights = {name: value.contiguous() for name, value in conditions.state_dict().items() if name != MASK_IN}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def load_conditions(folder: Path, unet: UNet2DConditionModel) -> ConditionModule | None:
    """The conditions of a pipeline's folder, attached to its U-Net, which is brought back to the latents'
    channels in place; None where it has none. Raises InputError where they are damaged.
    """
    path = folder / CONDITIONS_FILE
    if not path.is_file():
        return None
    try:
        settings = parse_settings(json_object(path.read_bytes()), str(path))
        weights = load_file(folder / WEIGHTS)
        if beside := settings.mask_channels:
            weights[MASK_IN] = _narrow(unet, beside)
        unet.class_embedding = None
        unet.register_to_config(class_embed_type=None)
        module = ConditionModule(settings, unet)
        module.load_state_dict(weights)
    except InputError:
        raise
    except Exception as error:  # whatever safetensors and torch raise on damaged files
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{folder / CONDITIONS}: cannot be loaded, is it damaged? copy it anew "
            f"({type(error).__name__}: {reason})"
        ) from error
    attach(unet, module)
    return module.eval()


def _narrow(unet: UNet2DConditionModel, beside: int) -> torch.Tensor:
    """Takes the last channels off the U-Net's first convolution; returns their weights."""
    conv: Any = unet.conv_in
    channels = conv.in_channels - beside
    taken = conv.weight.detach()[:, channels:].clone()
    conv.weight = nn.Parameter(conv.weight.detach()[:, :channels].clone())
    conv.in_channels = channels
    unet.register_to_config(in_channels=channels)
    return taken
