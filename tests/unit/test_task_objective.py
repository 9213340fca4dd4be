"""The losses of task runs against numbers made by hand, and that they are means over samples."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from medsd_ray.spec.tasks import Classifier, Segmenter
from medsd_ray.training.task_objective import balanced_weights, classification_loss, segmentation_loss

NETWORK: Any = {"library": "monai", "name": "UNet"}
LOGITS = torch.tensor(
    [[0.0, math.log(3)], [math.log(4), 0.0], [0.0, 0.0]]
)  # p = 3/4, 4/5, 1/2 of the first right
LABELS = torch.tensor([1, 0, -1])


def classifier(**settings: Any) -> Classifier:
    return Classifier(network=NETWORK, **settings)


def segmenter(loss: Any) -> Segmenter:
    return Segmenter(network=NETWORK, mask="lungs", loss=loss)


def test_cross_entropy_counts_a_sample_without_a_class_as_none():
    loss = classification_loss(LOGITS, LABELS, classifier(), None)
    assert float(loss) == pytest.approx(-(math.log(3 / 4) + math.log(4 / 5)) / 3, abs=1e-6)


def test_label_smoothing_divides_a_share_of_the_target():
    loss = classification_loss(LOGITS[:1], LABELS[:1], classifier(label_smoothing=0.2), None)
    assert float(loss) == pytest.approx(-(0.9 * math.log(3 / 4) + 0.1 * math.log(1 / 4)), abs=1e-6)


def test_focal_loss_weighs_what_is_known_less():
    loss = classification_loss(LOGITS[:2], LABELS[:2], classifier(loss="focal"), None)
    by_hand = -(0.25**2 * math.log(3 / 4) + 0.2**2 * math.log(4 / 5)) / 2
    assert float(loss) == pytest.approx(by_hand, abs=1e-6)


def test_balanced_weights_make_classes_count_alike():
    weights = balanced_weights((30, 10))
    assert weights.tolist() == pytest.approx([40 / 60, 40 / 20])
    assert float((weights * torch.tensor([30.0, 10.0])).tolist()[0]) == pytest.approx(20)
    for loss in ("cross_entropy", "focal"):
        plain = classification_loss(LOGITS[:1], LABELS[:1], classifier(loss=loss), None)
        weighted = classification_loss(LOGITS[:1], LABELS[:1], classifier(loss=loss), weights)
        assert float(weighted) == pytest.approx(2 * float(plain), abs=1e-6)


def test_dice_of_a_prediction_by_hand():
    """One sample of 4 pixels, of which 2 show the class; its probability is 3/4 on one of them, 1/4 else."""
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 1] = torch.tensor([[math.log(3), -math.log(3)], [-math.log(3), -math.log(3)]])
    mask = torch.tensor([[[1, 1], [0, 0]]], dtype=torch.uint8)
    dice = 2 * (0.75 + 0.25) / (0.75 + 3 * 0.25 + 2)
    entropy = -(3 * math.log(0.75) + math.log(0.25)) / 4
    focal = -(3 * 0.25**2 * math.log(0.75) + 0.75**2 * math.log(0.25)) / 4
    by_hand = {
        "dice": 1 - dice,
        "cross_entropy": entropy,
        "dice_ce": 1 - dice + entropy,
        "focal": focal / 2,  # MONAI takes the mean over both channels, of which one is the pixel's class
    }
    for loss, expected in by_hand.items():
        found = segmentation_loss(logits, mask, segmenter(loss))
        assert float(found) == pytest.approx(expected, abs=1e-4), loss


@pytest.mark.parametrize("loss", ["dice_ce", "dice", "cross_entropy", "focal"])
def test_a_batch_is_the_mean_of_its_samples(loss: str):
    """So that micro batches and workers change nothing."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 8, 8, generator=generator)
    mask = torch.randint(0, 3, (4, 8, 8), generator=generator, dtype=torch.uint8)
    mask[0] = 0
    whole = segmentation_loss(logits, mask, segmenter(loss))
    halves = [segmentation_loss(logits[at : at + 2], mask[at : at + 2], segmenter(loss)) for at in (0, 2)]
    torch.testing.assert_close(whole, torch.stack(halves).mean())
