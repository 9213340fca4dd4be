"""The losses of task runs, each the mean over samples of a sample's own loss, so that micro batches and
workers do not change it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from medsd_ray.spec.tasks import Classifier, Segmenter

GAMMA = 2.0
"""Of the focal loss (Lin et al. 2017, arXiv 1708.02002, sec. 3.2)."""


def balanced_weights(counts: tuple[int, ...]) -> Tensor:
    """(C,): the number of samples over C times that of each class, so that a class counts as much as any."""
    samples = torch.tensor(counts, dtype=torch.float32)
    return samples.sum() / (len(counts) * samples)


def classification_loss(
    logits: Tensor, labels: Tensor, settings: Classifier, class_weights: Tensor | None
) -> Tensor:
    """The mean loss of logits (B, C), float32, and classes (B,) int64; a sample whose class is below 0 counts
    as a loss of 0. `class_weights` is (C,).
    """
    known = labels >= 0
    targets = labels.clamp(min=0)
    if settings.loss == "focal":
        from monai.losses import FocalLoss

        focal = FocalLoss(to_onehot_y=True, gamma=GAMMA, use_softmax=True, reduction="none")
        each = focal(logits, targets[:, None]).sum(1)
        if class_weights is not None:
            each = each * class_weights[targets]
    else:
        each = functional.cross_entropy(
            logits, targets, class_weights, reduction="none", label_smoothing=settings.label_smoothing
        )
    return (each * known).mean()


def segmentation_loss(logits: Tensor, mask: Tensor, settings: Segmenter) -> Tensor:
    """The mean loss of logits (B, 1 + C, H, W), float32, and the pixels' classes (B, H, W), 0 the
    background.
    """
    from monai.losses import DiceLoss, FocalLoss

    target = mask.long()
    loss = logits.new_zeros(())
    if settings.loss in ("dice_ce", "dice"):
        dice = DiceLoss(include_background=False, to_onehot_y=True, softmax=True)
        loss = loss + dice(logits, target[:, None])
    if settings.loss in ("dice_ce", "cross_entropy"):
        loss = loss + functional.cross_entropy(logits, target)
    if settings.loss == "focal":
        focal = FocalLoss(to_onehot_y=True, gamma=GAMMA, use_softmax=True)
        loss = loss + focal(logits, target[:, None])
    return loss
