"""What the VAE learns: reconstruction + KL + an edge term, as plain functions of tensors (batch, channels,
height, width).

Kingma & Welling 2014 (arXiv 1312.6114, eq. 10) with an L1 likelihood; the edge term is the L1 distance of
image gradients at three scales. It keeps contours (ribs, the diaphragm) that L1 alone blurs, and needs no
pretrained network.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

SCALES = 3


def edge_loss(x: Tensor, y: Tensor) -> Tensor:
    """Mean |∇x - ∇y| over both directions and `SCALES` scales, each half the size of the one before; a
    scalar.
    """
    difference, total = x - y, x.new_zeros(())
    for scale in range(SCALES):
        if scale:
            difference = F.avg_pool2d(difference, 2)
        dx, dy = difference.diff(dim=-1), difference.diff(dim=-2)
        total = total + dx.abs().mean() + dy.abs().mean()
    return total / SCALES


def vae_loss(
    x: Tensor, reconstruction: Tensor, kl: Tensor, kl_weight: float, edge_weight: float
) -> dict[str, Tensor]:
    """The loss l1 + kl_weight·kl + edge_weight·edge of a batch, and its terms.

    Args:
        x: Images (B, C, H, W) in [-1, 1].
        reconstruction: What the VAE makes of them, of the same shape.
        kl: (B,), each image's KL divergence of its posterior from N(0, I), summed over all values of its
            latent.
        kl_weight: Weight of the KL term.
        edge_weight: Weight of the edge term.

    Returns:
        Scalars `loss`, `l1` (mean over all values of the images), `kl` and `edge`. The returned `kl` is the
        mean of the images' KL divergences divided by the values of one image, C·H·W. So both `l1` and `kl`
        are per value of an image, and a weight means the same at every size of images.
    """
    l1 = (x - reconstruction).abs().mean()
    kl_mean = kl.mean() / x[0].numel()
    edge = edge_loss(x, reconstruction)
    return {"loss": l1 + kl_weight * kl_mean + edge_weight * edge, "l1": l1, "kl": kl_mean, "edge": edge}
