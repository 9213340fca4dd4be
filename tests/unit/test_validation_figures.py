"""What validation measures beside the loss: scikit-learn's figures, and those of evaluate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, roc_auc_score

from medsd_ray.evaluation.figures.classification import Decisions
from medsd_ray.evaluation.figures.segmentation import Overlaps
from medsd_ray.training.task_figures import class_figures, class_rows, mask_figures, mask_rows


def rows_of(classes: int = 3, samples: int = 50) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Rows with ties, probabilities and labels."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(samples, classes, generator=generator).mul(2).round()
    labels = torch.randint(classes, (samples,), generator=generator)
    return class_rows(logits, labels), logits.softmax(1).double().numpy(), labels.numpy()


def test_a_classifiers_figures_are_those_of_scikit_learn_and_of_evaluate():
    rows, shares, labels = rows_of()
    found = class_figures(rows.double())
    areas = [roc_auc_score(labels == number, shares[:, number]) for number in range(3)]
    assert found["validation_auroc"] == pytest.approx(np.mean(areas), abs=1e-6)
    assert found["validation_accuracy"] == accuracy_score(labels, shares.argmax(1))
    overall = Decisions(shares, labels).overall(np.ones((1, len(labels))))
    for name in ("accuracy", "auroc"):
        assert found[f"validation_{name}"] == pytest.approx(overall[name][0], abs=1e-6)


def test_samples_of_no_class_do_not_count_and_an_absent_class_has_no_area():
    rows, _, _ = rows_of()
    unknown = rows.clone()[:5]
    unknown[:, -1] = -1
    assert class_figures(torch.cat([unknown, rows]).double()) == class_figures(rows.double())
    assert class_figures(unknown) == {}
    there = rows[rows[:, -1] != 2]
    assert set(class_figures(there.double())) == {"validation_accuracy"}


def test_a_segmenters_dice_is_that_of_evaluate():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, 8, 8, generator=generator)
    mask = torch.randint(3, (6, 8, 8), generator=generator, dtype=torch.uint8)
    mask[0] = 0  # shows nothing, and counts for no class
    mask[1] = mask[1].clamp(max=1)
    found = mask_figures(mask_rows(logits, mask).double())["validation_dice"]
    drawn, true = logits.argmax(1).numpy(), mask.numpy()
    by_class = [
        np.mean([
            2 * ((d == c) & (t == c)).sum() / ((d == c).sum() + (t == c).sum())
            for d, t in zip(drawn, true, strict=True) if (t == c).any()
        ])
        for c in (1, 2)
    ]  # fmt: skip
    assert found == pytest.approx(np.mean(by_class), abs=1e-6)
    overlaps = Overlaps.of(logits.softmax(1).numpy(), true)
    assert found == pytest.approx(overlaps.overall(np.ones((1, 6)))["dice"][0], abs=1e-6)
    assert mask_figures(mask_rows(logits, mask * 0)) == {}
