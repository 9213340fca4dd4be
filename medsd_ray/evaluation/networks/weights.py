"""Weights of networks from files and folders that the user names, on disk or S3.

Weights never come from the network otherwise, and are read as plain tensors: no code in a weight file runs.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medsd_ray.addresses import path_of
from medsd_ray.errors import InputError
from medsd_ray.evaluation.networks.batches import device
from medsd_ray.models.resolve import ENCODER_FILES, cached
from medsd_ray.models.weights import without_own_code
from medsd_ray.storage import open_storage


def local_path(address: str | os.PathLike) -> Path:
    """A local path of a weight file or folder, downloaded where it is on S3. Raises InputError where there is
    none.
    """
    address = os.fspath(address)
    if "://" not in address:
        return path_of(address)
    parent, _, name = address.rstrip("/").rpartition("/")
    if parent.count("/") >= 2 and (store := open_storage(parent)).exists(name):
        return cached(store, re.compile(re.escape(name))) / name
    store = open_storage(address)
    if not any(ENCODER_FILES.fullmatch(key) for key in store.list()):
        raise InputError(
            f"{address}: no weights here; give the address of a weight file or of a model's folder"
        )
    return cached(store, ENCODER_FILES)


def fingerprint(path: Path) -> str:
    """The first half of the SHA-256 over a model's weights, file or folder."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:32]


def read_weights(path: Path) -> Any:
    """Tensors by name, or a module, of a .safetensors or torch file. Whole-module files, as torchxrayvision
    publishes, are read with an allow-list: of their classes only the layers that a DenseNet is made of may be
    built. Raises InputError for a file that is not there, or not plain weights.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such weight file; give the path of one on this machine")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals(_densenet_classes()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpicklers fail in many ways; each means that the file is not plain weights
        raise InputError(
            f"{path}: not a weight file that can be read safely ({first_line(error)})"
        ) from error


def _densenet_classes() -> list:
    from torchxrayvision import models

    names = ("DenseNet", "_DenseLayer", "_DenseBlock", "_Transition")
    layers = (nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Linear)
    return [*(getattr(models, name) for name in names), *layers, set]


def as_state(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The tensors by name of what `read_weights` gave. Raises InputError where it is something else."""
    state = loaded.state_dict() if isinstance(loaded, nn.Module) else loaded
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: holds no plain dictionary of tensors; give a state-dict file")
    return state


def check_shapes(state: dict[str, Tensor], wanted: dict[str, tuple], path: Path, what: str) -> None:
    """Raises InputError where a tensor is absent or has another shape than `what`, a network, has."""
    for name, shape in wanted.items():
        found = tuple(state[name].shape) if name in state else None
        if found != shape:
            raise InputError(f"{path}: not {what}: {name} is {found or 'absent'} where {shape} belongs")


def load_encoder(folder: str | Path, kind: Any, processors: Any, *, owner: str, what: str) -> tuple[Any, Any]:
    """A model of transformers' class `kind` and its processor, of the class `processors`; the model is on the
    device. Raises InputError where `folder` is not one with safetensors weights, or is not there.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder; give that of {owner}")
    try:
        with without_own_code(folder):
            own: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            model = kind.from_pretrained(folder, use_safetensors=True, **own).eval()
            processor = processors.from_pretrained(folder, **own)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{folder}: not {what} with safetensors weights and a processor ({first_line(error)})"
        ) from error
    return model.to(device()), processor


def first_line(error: Exception) -> str:
    """What a library says was wrong, short enough for one line of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
