"""Networks without statistics of the batch.

Batch normalisation makes a sample's gradient depend on which others are in its batch on the same worker, so
that the number of workers would change a run. A network without weights gets group normalisation (Wu & He
2018, arXiv 1803.08494) or instance normalisation (Ulyanov et al. 2016, arXiv 1607.08022) in its place.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from medsd_ray.spec.tasks import Network

MOST_GROUPS, FEWEST_CHANNELS = 32, 4
"""Groups at most, and channels of a group at least: with one channel a group it would be the other kind."""


def without_batch_statistics(network: nn.Module, settings: Network) -> nn.Module:
    """The network with each batch normalisation replaced, in place."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, _instead_of(child, settings))
    return network


def _instead_of(norm: _BatchNorm, settings: Network) -> nn.GroupNorm:
    channels = norm.num_features
    groups = channels  # one group a channel is instance normalisation
    if settings.normalisation == "group":
        most = max(1, min(MOST_GROUPS, channels // FEWEST_CHANNELS))
        groups = next(n for n in range(most, 0, -1) if channels % n == 0)
    return nn.GroupNorm(groups, channels, eps=norm.eps, affine=norm.affine)
