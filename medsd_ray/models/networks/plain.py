"""A trained network as its own library makes it, without medsd: the files of its weights, and the lines that
load them.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from medsd_ray.errors import InputError
from medsd_ray.models.methods.adaptation import seeded
from medsd_ray.models.networks.backbones import BackboneNetwork, VaeEncoder, VisionModel
from medsd_ray.models.networks.libraries import CHANNELS, Recipe, outputs_of, recipe
from medsd_ray.models.networks.task_network import TaskModel, network_settings
from medsd_ray.models.networks.task_run import TaskRun
from medsd_ray.models.networks.weights import State
from medsd_ray.models.save import without_paths

WEIGHTS, HEAD, BACKBONE = "model.safetensors", "head.safetensors", "backbone"
TOLERANCE = 1e-3
"""By which a network may differ from what its library makes of the files, as a share of the largest
output.
"""


@dataclass(frozen=True)
class Plain:
    """What config.json says of how the network is made, and the Python lines, run in the folder, after which
    `model` maps images (B, 3, size, size) to outputs.
    """

    settings: dict[str, Any]
    code: str


def write_plain(model: TaskModel, run: TaskRun, folder: Path) -> Plain:
    """Writes the weights of a trained network. Raises InputError where its library alone makes another
    network of them.
    """
    body = model.network.body
    if not isinstance(body, BackboneNetwork):
        settings = network_settings(run.description)
        return _whole(body, recipe(settings, run.task, outputs_of(run.task, run.classes)), run, folder)
    _save(body.head.state_dict(), folder / HEAD)
    if isinstance(body.backbone, VaeEncoder):
        return _vae(body.backbone, body.segments, folder)
    return _vision_model(body.backbone, body.segments, run.size, folder)


def with_group_norms(network, groups):
    """Puts group normalisation, which the network was trained with, in the place of batch normalisation."""
    for name, number in groups.items():
        norm = network.get_submodule(name)
        group = torch.nn.GroupNorm(number, norm.num_features, norm.eps, norm.affine)
        network.set_submodule(name, torch.nn.Sequential(group, norm.act) if hasattr(norm, "act") else group)
    return network


def _whole(body: nn.Module, made: Recipe, run: TaskRun, folder: Path) -> Plain:
    """A network that its library makes whole."""
    fresh = seeded(0, made.make)
    state, groups = body.state_dict(), _group_norms(body, fresh)
    for name in groups:
        if hasattr(fresh.get_submodule(name), "act"):
            state = _in_sequence(state, name)
    with_group_norms(fresh, groups)
    counters = {name: t for name, t in fresh.state_dict().items() if name.endswith("num_batches_tracked")}
    check_same(body, fresh, counters | state, run)
    _save(counters | state, folder / WEIGHTS)
    helper, call = "", f'{made.function}(**config["arguments"])'
    if groups:
        helper = f"\n\n{inspect.getsource(with_group_norms)}\n"
        call = f'with_group_norms({call}, config["group_norms"])'
    code = f"""import json

import torch
from {made.module} import {made.function}
from safetensors.torch import load_file
{helper}
config = json.load(open("config.json"))
model = {call}
model.load_state_dict(load_file("{WEIGHTS}"))
model.eval()
"""
    settings: dict[str, Any] = {"made_by": f"{made.module}.{made.function}", "arguments": made.arguments}
    return Plain(settings | ({"group_norms": groups} if groups else {}), code)


def _group_norms(body: nn.Module, fresh: nn.Module) -> dict[str, int]:
    """The layers that are group normalisation in the place of the library's own, and their groups."""
    kinds = dict(fresh.named_modules())
    return {
        name: layer.num_groups
        for name, layer in body.named_modules()
        if isinstance(layer, nn.GroupNorm) and not isinstance(kinds[name], nn.GroupNorm)
    }


def _in_sequence(state: State, layer: str) -> State:
    """The tensors under the names that they have where the layer is a normalisation and its activation, one
    after the other.
    """
    places = {f"{layer}.act.": f"{layer}.1.", f"{layer}.": f"{layer}.0."}

    def placed(name: str) -> str:
        start = next((start for start in places if name.startswith(start)), "")
        return places.get(start, "") + name.removeprefix(start)

    return {placed(name): tensor for name, tensor in state.items()}


def check_same(body: nn.Module, fresh: nn.Module, state: State, run: TaskRun) -> None:
    """Raises InputError where `fresh`, with the tensors of `state`, gives other outputs than `body`."""
    images = torch.rand(1, CHANNELS, run.size, run.size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    try:
        fresh.load_state_dict(state)
        with torch.inference_mode():
            expected, found = body(images), fresh.eval()(images)
        same = float((found - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())
        why = "its outputs differ"
    except (RuntimeError, AttributeError, TypeError) as error:
        same, why = False, " ".join(str(error).split())[:200]
    if not same:
        raise InputError(
            f"{run.checkpoint.url}: this network cannot be exported, as its library alone makes another of "
            f"these weights ({why}); use medsd predict"
        )


_HEADS = {
    False: "torch.nn.functional.linear({pooled}, head['weight'], head['bias'])",
    True: """torch.nn.functional.interpolate(
        torch.nn.functional.conv2d({features}, head["weight"], head["bias"]),
        images.shape[-2:], mode="bilinear", align_corners=False,
    )""",
}
"""From a backbone's features to the outputs, by whether the network segments."""


def _vision_model(backbone: VisionModel, segments: bool, size: int, folder: Path) -> Plain:
    backbone.model.save_pretrained(folder / BACKBONE)
    without_paths(folder)
    with torch.inference_mode():
        side = backbone.side or size
        output = backbone.model(pixel_values=torch.zeros(1, CHANNELS, side, side), **backbone.own)
    shape, others = output.last_hidden_state.shape, backbone.others
    features = "features"
    if len(shape) == 3:
        rows = math.isqrt(shape[1] - others)
        features = f"features[:, {others}:].transpose(1, 2).unflatten(2, ({rows}, {rows}))"
    if getattr(output, "pooler_output", None) is not None:
        pooled = "output.pooler_output.flatten(1)"
    elif len(shape) == 3:
        pooled = "features[:, 0]" if others else "features.mean(1)"
    else:
        pooled = "features.mean((2, 3))"
    sized = f'torch.nn.functional.interpolate(images, ({side}, {side}), mode="bilinear", antialias=True)'
    own = "".join(f", {name}={value}" for name, value in backbone.own.items())
    code = f"""import json

import torch
from safetensors.torch import load_file
from transformers import AutoModel

config = json.load(open("config.json"))
backbone, head = AutoModel.from_pretrained("{BACKBONE}").eval(), load_file("{HEAD}")


def model(images):
    output = backbone(pixel_values={sized if backbone.side else "images"}{own})
    features = output.last_hidden_state
    return {_HEADS[segments].format(features=features, pooled=pooled)}
"""
    return Plain({"made_by": "transformers.AutoModel"}, code)


def _vae(backbone: VaeEncoder, segments: bool, folder: Path) -> Plain:
    _save(backbone.model.encoder.state_dict(), folder / WEIGHTS)
    arguments = {name: value for name, value in backbone.model.config.items() if not name.startswith("_")}
    code = f"""import json

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

config = json.load(open("config.json"))
encoder = AutoencoderKL(**config["arguments"]).encoder.eval()
encoder.conv_out = torch.nn.Identity()
encoder.load_state_dict(load_file("{WEIGHTS}"))
head = load_file("{HEAD}")


def model(images):
    features = encoder(images)
    return {_HEADS[segments].format(features="features", pooled="features.mean((2, 3))")}
"""
    return Plain({"made_by": "diffusers.AutoencoderKL", "arguments": arguments}, code)


def _save(state: State, path: Path) -> None:
    """Each tensor by itself, also where two names share one."""
    save_file({name: t.detach().clone().contiguous() for name, t in state.items()}, path, {"format": "pt"})
