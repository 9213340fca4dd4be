"""The module that a task run trains: a library's network, and what stands before it."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from medsd_ray.models.networks.backbones import BackboneNetwork
from medsd_ray.models.networks.weights import PixelStatistics


class TaskNetwork(nn.Module):
    """A library's network, `body`, behind the normalisation of images that its weights want.

    `new_parts` are, with the method frozen, the names of those that are trained; all else stays in evaluation
    mode. None with other methods.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, body: nn.Module, pixels: PixelStatistics | None = None):
        super().__init__()
        self.body, self.pixels = body, pixels
        self.new_parts: tuple[str, ...] | None = None
        if pixels:
            mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (pixels.mean, pixels.std))
            # ((x + 1) / 2 - mean) / std; it is kept with the run's settings, not with its weights.
            self.register_buffer("scale", 0.5 / std, persistent=False)
            self.register_buffer("shift", (0.5 - mean) / std, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """From images (B, 3, H, W) in [-1, 1] to what the body makes of them."""
        return self.body(x * self.scale.to(x.dtype) + self.shift.to(x.dtype) if self.pixels else x)

    def train(self, mode: bool = True) -> Self:
        """As of any module; of a frozen network the new parts alone are ever in training mode."""
        super().train(mode and self.new_parts is None)
        for name in self.new_parts or ():
            self.get_submodule(name).train(mode)
        return self

    def recomputed(self) -> nn.Module:
        """The part that may know how to compute its activations again in the backward pass."""
        return self.body.backbone.recomputed() if isinstance(self.body, BackboneNetwork) else self.body
