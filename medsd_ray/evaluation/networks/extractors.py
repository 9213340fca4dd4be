"""Networks that turn images into the features which FID and its kin compare. A new one is a function and a
registry entry.

All read uint8 images (N, H, W, C), C 1 or 3, and give (N, D) float64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from medsd_ray.errors import InputError
from medsd_ray.evaluation.networks.batches import as_tensor, device, in_batches, rgb
from medsd_ray.evaluation.networks.classifier import Classifier
from medsd_ray.evaluation.networks.image_text import load_clip
from medsd_ray.evaluation.networks.weights import (
    as_state,
    check_shapes,
    fingerprint,
    first_line,
    load_encoder,
    read_weights,
)

INCEPTION_SHA256 = "6726825d"
"""The published file is named by it: weights-inception-2015-12-05-6726825d.pth."""
BENCHMARK_SIZE = 299
"""Pixels to which CheXGenBench's own code brings every image before any network."""


@dataclass(frozen=True)
class Extractor:
    """A named feature space. `description` is what the report says of it; `extract` maps images (N, H, W, C)
    uint8 to features (N, D) float64.
    """

    name: str
    dimensions: int
    description: str
    extract: Callable[[np.ndarray], np.ndarray]

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return self.extract(pixels)


def _batched(forward: Callable[[np.ndarray], Tensor]) -> Callable[[np.ndarray], np.ndarray]:
    """An `extract` of what gives one batch's features (B, D)."""
    return lambda pixels: in_batches(pixels, forward).double().cpu().numpy()


def of_classifier(classifier: Classifier) -> Extractor:
    """The features of the classifier that this evaluation trained: always at hand, but known to nobody
    else.
    """
    return Extractor(
        "classifier",
        classifier.dimensions,
        f"last features of this report's own classifier ({classifier.name}); "
        "comparable within this report only",
        classifier.features,
    )


def inception(path: Path) -> Extractor:
    """The Inception-v3 that FID is defined with, 2048 features, from torch-fidelity's weight file.

    Raises InputError where the file does not hold it.
    """
    from torchmetrics.image.fid import NoTrainInceptionV3

    state = as_state(read_weights(path), path)
    shapes = {"Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3), "fc.weight": (1008, 2048)}
    check_shapes(state, shapes, path, "torch-fidelity's Inception")
    try:
        network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path))
    except Exception as error:  # a key or shape further down differs
        raise InputError(f"{path}: not torch-fidelity's Inception weights ({first_line(error)})") from error
    network = network.to(device())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    weights = "the published weights"
    if not sha256.startswith(INCEPTION_SHA256):
        weights = f"NOT the published weights (sha256 {sha256[:12]}): not comparable with papers"
    return Extractor(
        "inception",
        2048,
        f"Inception-v3, pool features, {weights}",
        _batched(lambda pixels: network(as_tensor(pixels).byte())),
    )


def xrv(path: Path) -> Extractor:
    """torchxrayvision's DenseNet-121 for chest X-rays, 1024 features, from a weight file of that project.

    Raises InputError where the file does not hold it.
    """
    from torchxrayvision.models import DenseNet

    state = as_state(read_weights(path), path)
    check_shapes(state, {"features.conv0.weight": (64, 1, 7, 7)}, path, "a torchxrayvision DenseNet-121")
    network = DenseNet(num_classes=len(state.get("classifier.bias", torch.zeros(18))))
    try:
        network.load_state_dict({k: v for k, v in state.items() if k != "op_threshs"}, strict=True)
    except RuntimeError as error:
        raise InputError(f"{path}: not a torchxrayvision DenseNet-121 ({first_line(error)})") from error
    network = network.to(device()).eval()

    def forward(pixels: np.ndarray) -> Tensor:
        """One channel at 224 px in [-1024, 1024], as torchxrayvision's `normalize` gives."""
        grey = as_tensor(pixels).mean(1, keepdim=True)
        grey = functional.interpolate(grey, size=(224, 224), mode="bilinear", antialias=True)
        return network.features2(grey / 255 * 2048 - 1024)

    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    description = f"torchxrayvision DenseNet-121 trained on chest X-rays (weights sha256 {sha256[:12]})"
    return Extractor("xrv", 1024, description, _batched(forward))


EXTRACTORS: dict[str, Callable[[Path], Extractor]] = {"inception": inception, "xrv": xrv}
"""Those that `medsd evaluate` compares with whatever the protocol."""


def clip_images(path: Path) -> Extractor:
    """The projected image features of a CLIP model (Radford et al. 2021, arXiv 2103.00020); 512 of ViT-B/32.

    Raises InputError where the folder does not hold one.
    """
    model, processor = load_clip(path)
    vision = model.config.vision_config

    def forward(pixels: np.ndarray) -> Tensor:
        values = processor(images=rgb(pixels), return_tensors="pt").to(device())
        return model.get_image_features(**values).pooler_output

    dimensions = int(model.config.projection_dim)
    shape = (vision.patch_size, vision.hidden_size, vision.num_hidden_layers, dimensions)
    kind = "NOT CLIP ViT-B/32, so not comparable with papers: a CLIP model"
    if shape == (32, 768, 12, 512):
        kind = "CLIP ViT-B/32"
    description = f"{kind}, projected image features (weights {fingerprint(path)[:12]})"
    return Extractor("clip", dimensions, description, _batched(forward))


def rad_dino(path: Path) -> Extractor:
    """The pooled output of RadDINO (Pérez-García et al. 2024, arXiv 2401.10815), a DINOv2 for chest X-rays;
    768 features.

    Images are first brought to 299 px, as CheXGenBench's own code does, then to what the model's processor
    says. Raises InputError where the folder does not hold it.
    """
    from transformers import AutoImageProcessor, Dinov2Model

    model, processor = load_encoder(
        path, Dinov2Model, AutoImageProcessor, owner="RadDINO", what="a DINOv2 model"
    )

    def forward(pixels: np.ndarray) -> Tensor:
        size = (BENCHMARK_SIZE, BENCHMARK_SIZE)
        small = [Image.fromarray(image).resize(size, Image.Resampling.BILINEAR) for image in rgb(pixels)]
        return model(**processor(images=small, return_tensors="pt").to(device())).pooler_output

    description = (
        f"RadDINO, pooled output of images brought to {BENCHMARK_SIZE} px first "
        f"(weights {fingerprint(path)[:12]})"
    )
    return Extractor("rad-dino", int(model.config.hidden_size), description, _batched(forward))
