"""Images as pixels (uint8) and as a VAE takes and gives them (float32 in [-1, 1])."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 images (B, 1 or 3, H, W) -> float32 (B, 3, H, W) in [-1, 1]: x / 127.5 - 1, gray repeated."""
    return images.float().expand(-1, 3, -1, -1) / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Floats (B, 3, H, W) in [-1, 1], cut off beyond, -> uint8 (B, H, W, 3): (x / 2 + 1/2)·255, rounded."""
    return ((images / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)


def vae_scale_factor(vae: Any) -> int:
    """Pixels of an image's side for each value of its latent's side: each block but the last halves it."""
    return 2 ** (len(vae.config["block_out_channels"]) - 1)
