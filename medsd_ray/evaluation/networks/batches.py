"""Images on their way through a network: on its device, as tensors of three channels, in batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

BATCH = 16


def device() -> torch.device:
    """Where every network of an evaluation runs."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def as_tensor(pixels: np.ndarray) -> Tensor:
    """(N, H, W, C) uint8, C 1 or 3 -> (N, 3, H, W) float32, levels from 0 to 255, on the device."""
    return torch.from_numpy(pixels).to(device()).permute(0, 3, 1, 2).float().expand(-1, 3, -1, -1)


def rgb(pixels: np.ndarray) -> list[np.ndarray]:
    """(N, H, W, C) uint8, C 1 or 3, as the list of (H, W, 3) that transformers' processors take."""
    return list(np.broadcast_to(pixels, (*pixels.shape[:3], 3)))


def in_batches(pixels: np.ndarray, forward: Callable[[np.ndarray], Tensor], size: int = BATCH) -> Tensor:
    """What `forward` gives for each `size` images of (N, H, W, C), one after the other: (N, ...)."""
    with torch.inference_mode():
        return torch.cat([forward(pixels[i : i + size]) for i in range(0, len(pixels), size)])
