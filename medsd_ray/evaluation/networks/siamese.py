"""A network that says whether two X-rays are of one patient, for re-identification."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from medsd_ray.errors import InputError
from medsd_ray.evaluation.networks.batches import as_tensor, device, in_batches
from medsd_ray.evaluation.networks.weights import (
    as_state,
    check_shapes,
    fingerprint,
    read_weights,
)


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
    """The network with its weights, and what the report says of it."""

    network: SiameseNetwork
    description: str

    def features(self, pixels: np.ndarray) -> Tensor:
        """(N, H, W, C) uint8 -> (N, 128)."""

        def forward(batch: np.ndarray) -> Tensor:
            x = as_tensor(batch) / 255
            x = functional.interpolate(x, size=(224, 224), mode="bilinear", antialias=True)
            return self.network.features(x)

        return in_batches(pixels, forward)

    def scores(self, one: Tensor, other: Tensor) -> np.ndarray:
        """(N, 128) twice -> (N,) float64 in [0, 1]: how likely both are of one patient."""
        with torch.inference_mode():
            return self.network.score(one, other).double().cpu().numpy()


def load_siamese(path: Path) -> Siamese:
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
