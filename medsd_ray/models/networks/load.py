"""A trained network ready for use: images in, probabilities out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from medsd_ray.errors import RunError
from medsd_ray.models.inference import Inference
from medsd_ray.models.networks.task_network import load_trained
from medsd_ray.models.networks.task_run import TaskRun
from medsd_ray.models.pixels import to_unit_range
from medsd_ray.models.precision import DTYPES

BATCH = 32


@dataclass(frozen=True)
class Predictor:
    """The network of a task run, in evaluation mode, on the device and in the number format that it runs
    in.
    """

    run: TaskRun
    network: nn.Module

    def predict(self, pixels: np.ndarray, batch: int = BATCH) -> np.ndarray:
        """The probabilities of the classes, float32.

        Args:
            pixels: (N, H, W) or (N, H, W, 1 or 3) uint8, of the size that the network was trained on.
            batch: Images at a time, which changes no result.

        Returns:
            (N, C) of a classifier; (N, 1 + C, H, W) of a segmenter, the background first.

        Raises:
            RunError: The network gives no numbers.
        """
        images = pixels[..., None] if pixels.ndim == 3 else pixels
        parts = [self._forward(images[start : start + batch]) for start in range(0, len(images), batch)]
        return np.concatenate(parts)

    def _forward(self, images: np.ndarray) -> np.ndarray:
        weight = next(self.network.parameters())
        values = to_unit_range(torch.from_numpy(images).to(weight.device).permute(0, 3, 1, 2))
        with torch.inference_mode():
            shares = self.network(values.to(weight.dtype)).float().softmax(1).cpu()
        if not torch.isfinite(shares).all():
            raise RunError(
                f"{self.run.checkpoint.url}: the network gives no numbers for some images; use an earlier "
                "checkpoint, or --precision fp32"
            )
        return shares.numpy()


def load_predictor(run: TaskRun, how: Inference) -> Predictor:
    """The network of a task run with its trained weights, their moving average where it has one.

    Args:
        run: The run.
        how: Where it computes, and in which number format.

    Raises:
        InputError: The checkpoint is damaged, or what it was trained from has changed.
    """
    device = torch.device("cuda" if how.use_gpu else "cpu")
    return Predictor(run, load_trained(run.checkpoint).network.to(device, DTYPES[how.precision]))
