"""What validation measures of a task run beside its loss, by MONAI: from rows of numbers, one a sample, which
any worker may have made, so that their number changes nothing.

They are those of `medsd evaluate`, over the samples that the validation loss is of.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor
from torch.nn.functional import one_hot

Figures = dict[str, float]
"""By their names in metrics.jsonl, without what is not defined."""


def class_rows(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, C + 1) of logits (N, C) and labels (N,), below 0 where a sample has none of the classes: the
    probabilities and the label.
    """
    return torch.cat([logits.softmax(1), labels[:, None].to(logits.dtype)], 1)


def class_figures(rows: Tensor) -> Figures:
    """The share of samples whose likeliest class is theirs, and the area under the ROC curve of each class
    against the others, as a mean over the classes; from what `class_rows` gives.
    """
    from monai.metrics import compute_roc_auc

    shares, labels = rows[:, :-1], rows[:, -1].long()
    shares, labels = shares[labels >= 0], labels[labels >= 0]
    if not len(labels):
        return {}
    truth = one_hot(labels, shares.shape[1])
    with warnings.catch_warnings():  # of classes that no sample has, whose area is not defined
        warnings.simplefilter("ignore")
        area = float(compute_roc_auc(shares, truth, average="macro"))  # type: ignore[arg-type]
    return _defined(
        {
            "validation_accuracy": float((shares.argmax(1) == labels).double().mean()),
            "validation_auroc": area,
        }
    )


def mask_rows(logits: Tensor, mask: Tensor) -> Tensor:
    """(N, C) of logits (N, 1 + C, H, W) and masks (N, H, W), 0 the background: the Dice of each class; nan
    where a mask has no pixel of it.
    """
    from monai.metrics import compute_dice

    outputs = logits.shape[1]
    drawn, true = (
        one_hot(numbers.long(), outputs).movedim(-1, 1).float() for numbers in (logits.argmax(1), mask)
    )
    return compute_dice(drawn, true, include_background=False)


def mask_figures(rows: Tensor) -> Figures:
    """Dice, as a mean over the samples that have the class, then over the classes; from `mask_rows`."""
    return _defined({"validation_dice": float(rows.nanmean(0).mean())})


def _defined(figures: Figures) -> Figures:
    return {name: value for name, value in figures.items() if math.isfinite(value)}
