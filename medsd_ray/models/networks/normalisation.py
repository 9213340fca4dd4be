"""Networks without statistics of the batch.

Batch normalisation makes a sample's gradient depend on which others are in its batch on the same worker, so
that the number of workers would change a run. Where weights bring the statistics of the images that they were
trained on, these stay; elsewhere group normalisation (Wu & He 2018, arXiv 1803.08494) or instance
normalisation (Ulyanov et al. 2016, arXiv 1607.08022) takes its place.
"""

from __future__ import annotations

from collections.abc import Container

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medsd_ray.spec.tasks import Network

MOST_GROUPS, FEWEST_CHANNELS = 32, 4
"""Groups at most, and channels of a group at least: with one channel a group it would be the other kind."""


class KeptStatistics(nn.Module):
    """Batch normalisation as in evaluation, in training too: (x - mean) / sqrt(var + eps) · weight + bias,
    where mean and var (C,) stay as they are. Weight and bias may be trained; all names are those of the
    layer that it replaces.
    """

    running_mean: Tensor
    running_var: Tensor
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, norm: _BatchNorm):
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None
        self.eps = norm.eps
        self.register_parameter("weight", norm.weight)
        self.register_parameter("bias", norm.bias)
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)
        self.drop, self.act = _what_follows(norm)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, C, ...) to the same shape and dtype; scale and shift are computed in float32."""
        scale = (self.running_var.float() + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight.float()
        shift = -self.running_mean.float() * scale
        if self.bias is not None:
            shift = shift + self.bias.float()
        shape = (1, -1) + (1,) * (x.ndim - 2)
        x = x * scale.to(x.dtype).view(shape) + shift.to(x.dtype).view(shape)
        return self.act(self.drop(x))


class _GroupNorm(nn.GroupNorm):
    """Group normalisation with what timm's layers have after it."""

    def __init__(self, groups: int, norm: _BatchNorm):
        super().__init__(groups, norm.num_features, eps=norm.eps, affine=norm.affine)
        self.drop, self.act = _what_follows(norm)

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


def without_batch_statistics(
    network: nn.Module, settings: Network, loaded: Container[str] = frozenset()
) -> nn.Module:
    """The network with each batch normalisation replaced, in place: by its statistics where `loaded`, names
    of tensors that weights have brought, has them, else as the settings say.
    """
    for path, parent in list(network.named_modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                own = f"{path}.{name}" if path else name
                has_statistics = f"{own}.running_mean" in loaded and f"{own}.running_var" in loaded
                kept = KeptStatistics(child) if has_statistics else _instead_of(child, settings)
                setattr(parent, name, kept)
    return network


def _instead_of(norm: _BatchNorm, settings: Network) -> nn.GroupNorm:
    channels = norm.num_features
    groups = channels  # one group a channel is instance normalisation
    if settings.normalisation == "group":
        most = max(1, min(MOST_GROUPS, channels // FEWEST_CHANNELS))
        groups = next(n for n in range(most, 0, -1) if channels % n == 0)
    return _GroupNorm(groups, norm)


def _what_follows(norm: _BatchNorm) -> tuple[nn.Module, nn.Module]:
    """timm's BatchNormAct2d is a normalisation, a dropout of regions, and an activation in one layer."""
    drop, act = getattr(norm, "drop", None), getattr(norm, "act", None)
    return drop or nn.Identity(), act or nn.Identity()
