"""Networks that turn images into the features which FID and its kin compare. A new one is a function and a
registry entry.

All read uint8 images (N, H, W, C), C 1 or 3, and give (N, D) float64. Weights come from files named by the
user, never from the network, and are read as plain tensors: no code in a weight file runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from medsd_ray.errors import InputError
from medsd_ray.evaluation.networks.classifier import Classifier, device

INCEPTION_SHA256 = (
    "6726825d"  # the published file names itself by it: weights-inception-2015-12-05-6726825d.pth
)


@dataclass(frozen=True)
class Extractor:
    """A named feature space. `description` is what the report says of it."""

    name: str
    dimensions: int
    description: str
    extract: Callable[[np.ndarray], np.ndarray]

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return self.extract(pixels)


def of_classifier(classifier: Classifier) -> Extractor:
    """The features of the classifier that this evaluation trained: always at hand, but known to nobody else."""
    return Extractor(
        "classifier",
        classifier.dimensions,
        f"last features of this report's own classifier ({classifier.name}); comparable within this report only",
        classifier.features,
    )


def inception(path: Path) -> Extractor:
    """The Inception-v3 that FID is defined with, 2048 features, from torch-fidelity's weight file."""
    from torchmetrics.image.fid import NoTrainInceptionV3

    state = as_state(read_weights(path), path)
    shapes = {"Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3), "fc.weight": (1008, 2048)}
    check_shapes(state, shapes, path, "torch-fidelity's Inception")
    try:
        network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path))
    except Exception as error:  # a key or shape further down differs
        raise InputError(f"{path}: not torch-fidelity's Inception weights ({_first_line(error)})") from error
    network = network.to(device())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    known = sha256.startswith(INCEPTION_SHA256)
    words = (
        "the published weights"
        if known
        else f"NOT the published weights (sha256 {sha256[:12]}): not comparable with papers"
    )
    return Extractor(
        "inception",
        2048,
        f"Inception-v3, pool features, {words}",
        lambda pixels: _run(network, pixels, lambda x: x.byte()),
    )


def xrv(path: Path) -> Extractor:
    """torchxrayvision's DenseNet-121 for chest X-rays, 1024 features, from a weight file of that project."""
    from torchxrayvision.models import DenseNet

    state = as_state(read_weights(path), path)
    check_shapes(state, {"features.conv0.weight": (64, 1, 7, 7)}, path, "a torchxrayvision DenseNet-121")
    network = DenseNet(num_classes=len(state.get("classifier.bias", torch.zeros(18))))
    try:
        network.load_state_dict({k: v for k, v in state.items() if k != "op_threshs"}, strict=True)
    except RuntimeError as error:
        raise InputError(f"{path}: not a torchxrayvision DenseNet-121 ({_first_line(error)})") from error
    network = network.to(device()).eval()

    def prepare(
        x: Tensor,
    ) -> Tensor:  # one channel at 224 px in [-1024, 1024], as torchxrayvision's normalize gives
        grey = functional.interpolate(
            x.mean(1, keepdim=True), size=(224, 224), mode="bilinear", antialias=True
        )
        return grey / 255 * 2048 - 1024

    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    description = f"torchxrayvision DenseNet-121 trained on chest X-rays (weights sha256 {sha256[:12]})"
    return Extractor(
        "xrv", 1024, description, lambda pixels: _run(network, pixels, prepare, network.features2)
    )


EXTRACTORS: dict[str, Callable[[Path], Extractor]] = {"inception": inception, "xrv": xrv}


def _run(
    network: nn.Module, pixels: np.ndarray, prepare: Callable[[Tensor], Tensor], forward=None
) -> np.ndarray:
    forward = forward or network
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pixels), 16):
            x = (
                torch.from_numpy(pixels[start : start + 16])
                .to(device())
                .permute(0, 3, 1, 2)
                .float()
                .expand(-1, 3, -1, -1)
            )
            parts.append(forward(prepare(x)).double().cpu().numpy())
    return np.concatenate(parts)


def read_weights(path: Path):
    """Tensors of a .safetensors or torch file. Whole-module files, as torchxrayvision publishes, are read
    with an allow-list: of their classes only the layers that a DenseNet is made of may be built.
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
            f"{path}: not a weight file that can be read safely ({_first_line(error)})"
        ) from error


def _densenet_classes() -> list:
    from torchxrayvision import models

    names = ("DenseNet", "_DenseLayer", "_DenseBlock", "_Transition")
    layers = (nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Linear)
    return [*(getattr(models, name) for name in names), *layers, set]


def as_state(loaded, path: Path) -> dict[str, Tensor]:
    state = loaded.state_dict() if isinstance(loaded, nn.Module) else loaded
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: holds no plain dictionary of tensors; give a state-dict file")
    return state


def check_shapes(state: dict[str, Tensor], wanted: dict[str, tuple], path: Path, what: str) -> None:
    for name, shape in wanted.items():
        found = tuple(state[name].shape) if name in state else None
        if found != shape:
            raise InputError(f"{path}: not {what}: {name} is {found or 'absent'} where {shape} belongs")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def load_clip(folder: str | Path) -> tuple[Any, Any]:
    """A CLIP model and its processor. Raises InputError where `folder` is not one with safetensors weights."""
    from transformers import CLIPModel, CLIPProcessor

    return load_encoder(folder, CLIPModel, CLIPProcessor, owner="a CLIP model", what="a CLIP model")


def load_encoder(folder: str | Path, kind: Any, processors: Any, *, owner: str, what: str) -> tuple[Any, Any]:
    """A model of transformers' class `kind` and its processor, on the device. Raises InputError where
    `folder` is not one with safetensors weights, or is not there.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder; give that of {owner}")
    try:
        model = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        processor = processors.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{folder}: not {what} with safetensors weights and a processor ({_first_line(error)})"
        ) from error
    return model.to(device()), processor


def cosines(folder: str | Path, pixels: np.ndarray, texts: list[str]) -> np.ndarray:
    """(N,) cosine of each image, (N, H, W, C) uint8, with its text by a model of CLIP's layout. Raises
    InputError as above.
    """
    model, processor = load_clip(folder)
    found: list[float] = []
    with torch.inference_mode():
        for i in range(0, len(pixels), 16):
            values = processor(
                text=texts[i : i + 16],
                images=rgb(pixels[i : i + 16]),
                return_tensors="pt",
                padding=True,
                truncation=True,
            )
            out = model(**values.to(device()))
            found += functional.cosine_similarity(out.image_embeds, out.text_embeds).double().tolist()
    return np.array(found)


def rgb(pixels: np.ndarray) -> list[np.ndarray]:
    """(N, H, W, C) uint8, C 1 or 3, as the list of (H, W, 3) that transformers' processors take."""
    return list(np.broadcast_to(pixels, (*pixels.shape[:3], 3)))
