"""Extractors that named protocols ask for besides Inception and torchxrayvision, from folders or files, on
disk or S3.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from medsd_ray.errors import InputError
from medsd_ray.evaluation.networks.classifier import device
from medsd_ray.evaluation.networks.features import (
    Extractor,
    as_state,
    check_shapes,
    load_clip,
    load_encoder,
    read_weights,
    rgb,
)
from medsd_ray.models.resolve import ENCODER_FILES, cached
from medsd_ray.storage import open_storage

BATCH = 16


BENCHMARK_SIZE = 299  # px, to which CheXGenBench's own code brings every image before any network


def fetched(address: str | os.PathLike) -> Path:
    """A local path of a weight file or folder, downloaded where it is on S3. Raises InputError where there is
    none.
    """
    address = os.fspath(address)
    if "://" not in address:
        return Path(address).expanduser()
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


def clip_images(path: Path) -> Extractor:
    """The projected image features of a CLIP model (Radford et al. 2021, arXiv 2103.00020); 512 of ViT-B/32."""
    model, processor = load_clip(path)
    vision = model.config.vision_config

    def batch(images: list[np.ndarray]) -> Tensor:
        values = processor(images=images, return_tensors="pt").to(device())
        return model.get_image_features(**values).pooler_output

    dimensions = int(model.config.projection_dim)
    published = (vision.patch_size, vision.hidden_size, vision.num_hidden_layers, dimensions) == (
        32,
        768,
        12,
        512,
    )
    words = "CLIP ViT-B/32" if published else "NOT CLIP ViT-B/32, so not comparable with papers: a CLIP model"
    return Extractor(
        "clip",
        dimensions,
        f"{words}, projected image features (weights {fingerprint(path)[:12]})",
        _batches(batch),
    )


def rad_dino(path: Path) -> Extractor:
    """The pooled output of RadDINO (Pérez-García et al. 2024, arXiv 2401.10815), a DINOv2 for chest X-rays;
    768 features.

    Images are first brought to 299 px, as CheXGenBench's own code does, then to what the model's processor
    says.
    """
    from transformers import AutoImageProcessor, Dinov2Model

    model, processor = load_encoder(
        path, Dinov2Model, AutoImageProcessor, owner="RadDINO", what="a DINOv2 model"
    )

    def batch(images: list[np.ndarray]) -> Tensor:
        size = (BENCHMARK_SIZE, BENCHMARK_SIZE)
        small = [Image.fromarray(image).resize(size, Image.Resampling.BILINEAR) for image in images]
        return model(**processor(images=small, return_tensors="pt").to(device())).pooler_output

    words = f"RadDINO, pooled output of images brought to {BENCHMARK_SIZE} px first (weights {fingerprint(path)[:12]})"
    return Extractor("rad-dino", int(model.config.hidden_size), words, _batches(batch))


def _batches(batch: Callable[[list[np.ndarray]], Tensor]) -> Callable[[np.ndarray], np.ndarray]:
    def extract(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            parts = [
                batch(rgb(pixels[i : i + BATCH])).double().cpu().numpy() for i in range(0, len(pixels), BATCH)
            ]
        return np.concatenate(parts)

    return extract


class SiameseNetwork(nn.Module):
    """Are two X-rays of one patient? (Packhäuser et al. 2022, doi 10.1038/s41598-022-19045-3.)

    σ(w·|σ(f(a)) - σ(f(b))| + c) with f a ResNet-50 of 128 outputs; named as its published weights are.
    """

    def __init__(self) -> None:
        from torchvision.models import resnet50

        super().__init__()
        self.model = resnet50(num_classes=128)
        self.fc_end = nn.Linear(128, 1)

    def features(self, x: Tensor) -> Tensor:
        """(B, 3, 224, 224) in [0, 1] -> (B, 128)."""
        return self.model(x).sigmoid()

    def score(self, one: Tensor, other: Tensor) -> Tensor:
        """(B, 128) twice -> (B,) in [0, 1]."""
        return self.fc_end((one - other).abs()).sigmoid()[:, 0]


@dataclass(frozen=True)
class Siamese:
    network: SiameseNetwork
    description: str

    def features(self, pixels: np.ndarray) -> Tensor:
        """(N, H, W, C) uint8 -> (N, 128)."""
        parts = []
        with torch.inference_mode():
            for i in range(0, len(pixels), BATCH):
                x = (
                    torch.from_numpy(pixels[i : i + BATCH])
                    .to(device())
                    .permute(0, 3, 1, 2)
                    .float()
                    .expand(-1, 3, -1, -1)
                    / 255
                )
                x = functional.interpolate(x, size=(224, 224), mode="bilinear", antialias=True)
                parts.append(self.network.features(x))
        return torch.cat(parts)

    def scores(self, one: Tensor, other: Tensor) -> np.ndarray:
        with torch.inference_mode():
            return self.network.score(one, other).double().cpu().numpy()


def siamese(path: Path) -> Siamese:
    """Raises InputError where the file does not hold this network's weights."""
    state = as_state(read_weights(path), path)
    check_shapes(
        state, {"model.fc.weight": (128, 2048), "fc_end.weight": (1, 128)}, path, "a siamese ResNet-50"
    )
    network = SiameseNetwork()
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{path}: not a siamese ResNet-50 ({' '.join(str(error).split())[:160]})") from error
    return Siamese(network.to(device()).eval(), f"siamese ResNet-50 (weights {fingerprint(path)[:12]})")
