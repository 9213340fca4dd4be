"""The tensors of weights, brought under the names of a network.

The same network is saved as itself, or as the `encoder.` or `model.` of another: such a prefix of the file's
names or of the network's is left out where that makes more of them fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medsd_ray.documents import json_object
from medsd_ray.errors import InputError

State = dict[str, Tensor]
_CONTAINER = (
    r"(?:backbone|base_model|body|classifier|encoder|image_encoder|model|module|net|network|segmenter|"
    r"student|swinViT|teacher|visual)\."
)
_PREFIX = re.compile(rf"{_CONTAINER}(?:{_CONTAINER})*")
SHOWN = 4
"""Names in a message."""


@dataclass(frozen=True)
class PixelStatistics:
    """Mean and standard deviation of each channel, for pixels in [0, 1], by which weights want images
    normalised.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_folder(folder: Path) -> State:
    """The tensors of a folder's safetensors, by name.

    Raises InputError where they are damaged, or where it has several files that are not parts of one.
    """
    whole, parts = folder / "model.safetensors", sorted(folder.glob("*-of-*.safetensors"))
    files = [whole] if whole.is_file() else parts or sorted(folder.glob("*.safetensors"))
    if len(files) > 1 and files != parts:
        raise InputError(
            f"{folder}: several weights here, {', '.join(f.name for f in files)}; leave one, or call it "
            "model.safetensors"
        )
    state: State = {}
    for file in files:
        try:
            state |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file} is damaged ({error}); copy it anew") from error
    return state


def pixel_statistics(folder: Path) -> PixelStatistics | None:
    """What the folder says of its images, as an image processor of transformers or a configuration of timm
    does; None where it says nothing. Raises InputError where that is no mean and standard deviation.
    """
    processor, config = (_json(folder / name) for name in ("preprocessor_config.json", "config.json"))
    if processor.get("do_normalize", bool(processor)) and "image_mean" in processor:
        found = processor.get("image_mean"), processor.get("image_std")
    elif processor.get("do_normalize") is False:  # its pixels are in [0, 1]
        found = (0.0,), (1.0,)
    else:
        own = config.get("pretrained_cfg", config)  # timm's own, since 0.9.6 by this name
        found = (own.get("mean"), own.get("std")) if isinstance(own, dict) else (None, None)
    return None if found == (None, None) else statistics(*found, where=str(folder))


def statistics(mean: Any, std: Any, where: str) -> PixelStatistics:
    """Three channels' statistics of one number or three. Raises InputError for anything else."""
    try:
        values = [tuple(map(float, value)) * (3 if len(value) == 1 else 1) for value in (mean, std)]
    except (TypeError, ValueError):
        values = []
    if [len(value) for value in values] != [3, 3] or min(values[1]) <= 0:
        raise InputError(f"{where}: no mean and standard deviation of three channels: {mean}, {std}; mend it")
    return PixelStatistics(*values)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json_object(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{path} is damaged; copy it anew") from error


def fitting(network: nn.Module, state: State) -> State:
    """The tensors of `state` that fit the network by name and shape, under the network's names."""
    wanted = {name: tensor for name, tensor in network.state_dict().items() if _counts(name)}
    best: State = {}
    for left_out, added in product(_prefixes(state), _prefixes(wanted)):
        found = {
            added + name.removeprefix(left_out): tensor
            for name, tensor in state.items()
            if name.startswith(left_out)
        }
        fits = {
            name: tensor
            for name, tensor in found.items()
            if name in wanted and wanted[name].shape == tensor.shape
        }
        if _numbers(fits.values()) > _numbers(best.values()):
            best = fits
    return best


def _prefixes(names: Iterable[str]) -> list[str]:
    """None first, then those of containers, each with its own: `encoder.`, `encoder.model.`."""
    found = {"": None}
    for name in names:
        if match := _PREFIX.match(name):
            parts = match[0].split(".")[:-1]
            found |= {".".join(parts[:n]) + ".": None for n in range(1, len(parts) + 1)}
    return list(found)


def load_fitting(network: nn.Module, state: State, found: State, where: str) -> str:
    """Puts `found`, of `state`, into the network, and says in words what of the network it leaves as it was.

    A network that segments with an encoder of its own may start from the encoder's weights alone. Raises
    InputError where fewer than half of the numbers of its parameters are loaded.
    """
    parameters = dict(network.named_parameters())
    judged = {name: p for name, p in parameters.items() if name.startswith("encoder.")} or parameters
    share = _numbers(p for name, p in judged.items() if name in found) / max(1, _numbers(judged.values()))
    if share < 0.5:
        raise InputError(
            f"{where}: it has {share:.0%} of the network's numbers, and half of them are needed; there are "
            f"{_some(state)}, where the network has {_some(network.state_dict())}; name weights of this "
            "network, or the network of these weights"
        )
    names = [name for name in network.state_dict() if _counts(name)]
    network.load_state_dict({name: found[name] for name in names if name in found}, strict=False)
    new = [name for name in names if name not in found]
    rest = f"; {_some(new)} {'is' if len(new) == 1 else 'are'} new" if new else ""
    return f"{len(names) - len(new)} of {len(names)} tensors{rest}"


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def _counts(name: str) -> bool:
    """Batch normalisation counts its batches, which is no weight."""
    return not name.endswith("num_batches_tracked")


def _numbers(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
