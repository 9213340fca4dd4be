"""How right a classifier is: shares, areas under curves, and calibration, over weighted images.

With all weights 1 the figures are those of scikit-learn: accuracy, recall (sensitivity), F1, roc_auc_score
(each class against the others) and average_precision_score; `macro` is the mean over classes. The Brier score
is the sum over classes, from 0 to 2 (Brier 1950), which of two classes is twice scikit-learn's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from medsd_ray.evaluation.figures.calibration import binned, calibration_error
from medsd_ray.evaluation.figures.patient_draws import Form, Values, ratio, weighted_mean

OVERALL = {
    "accuracy": Form(share=True),
    "balanced_accuracy": Form(),
    "auroc": Form(area=True),
    "average_precision": Form(area=True),
    "f1": Form(),
    "ece": Form(),
    "brier": Form(),
}
"""Of all images: areas and F1 are means over the classes."""
BY_CLASS = {
    "sensitivity": Form(share=True, undefined="no image is of this class"),
    "specificity": Form(share=True, undefined="every image is of this class"),
    "auroc": Form(area=True, undefined="every image is of this class, or none"),
    "average_precision": Form(area=True, undefined="no image is of this class"),
    "f1": Form(undefined="no image is of this class or taken for it"),
}
"""Of one class against the others."""


@dataclass(frozen=True)
class Decisions:
    """What a classifier says of images: `probabilities` (N, C) and the `truth` (N,), ints."""

    probabilities: np.ndarray
    truth: np.ndarray

    @cached_property
    def predicted(self) -> np.ndarray:
        """The most likely class of each, (N,)."""
        return self.probabilities.argmax(1)

    @cached_property
    def confidence(self) -> np.ndarray:
        """Of the most likely class, (N,)."""
        return self.probabilities.max(1)

    @cached_property
    def right(self) -> np.ndarray:
        """Whether each is right, (N,) bool."""
        return self.predicted == self.truth

    @cached_property
    def bins(self) -> np.ndarray:
        """Each image's decision in its bin of confidence, (N, BINS, 3); see calibration.py."""
        return binned(self.confidence, self.right)

    @property
    def classes(self) -> int:
        return self.probabilities.shape[1]

    def take(self, of: np.ndarray) -> Decisions:
        """Those of the images `of` (indices)."""
        return Decisions(self.probabilities[of], self.truth[of])

    @classmethod
    def joined(cls, parts: list[Decisions]) -> Decisions:
        """One after the other."""
        probabilities = np.concatenate([part.probabilities for part in parts])
        return cls(probabilities, np.concatenate([part.truth for part in parts]))

    def confusion(self) -> np.ndarray:
        """(C, C) ints: images by true class (row) and predicted class (column)."""
        found = np.zeros((self.classes, self.classes), int)
        np.add.at(found, (self.truth, self.predicted), 1)
        return found

    def overall(self, weights: np.ndarray) -> Values:
        """The figures of OVERALL, (B,) each, by weights (B, N)."""
        each = [self.of_class(number, weights) for number in range(self.classes)]
        macro = {name: np.mean([one[name] for one in each], axis=0) for name in BY_CLASS}
        one_hot = np.eye(self.classes)[self.truth]
        return {
            "accuracy": weighted_mean(weights, self.right.astype(float)),
            "balanced_accuracy": macro["sensitivity"],
            "auroc": macro["auroc"],
            "average_precision": macro["average_precision"],
            "f1": macro["f1"],
            "ece": calibration_error(weights, self.bins),
            "brier": weighted_mean(weights, ((self.probabilities - one_hot) ** 2).sum(1)),
        }

    def of_class(self, number: int, weights: np.ndarray) -> Values:
        """The figures of BY_CLASS of one class, (B,) each, by weights (B, N)."""
        is_class, said = self.truth == number, self.predicted == number
        total, support, named = weights.sum(1), weights @ is_class, weights @ said
        hits = weights @ (is_class & said)
        area, precision = curve_areas(self.probabilities[:, number], is_class, weights)
        return {
            "sensitivity": ratio(hits, support),
            "specificity": ratio(total - support - named + hits, total - support),
            "auroc": area,
            "average_precision": precision,
            "f1": ratio(2 * hits, support + named),
        }


def curve_areas(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B,) areas under the ROC curve and average precisions of scores (N,) and truth (N,) bool by weights (B,
    N); equal scores count as one threshold.
    """
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    starts = np.flatnonzero(np.r_[True, falling[1:] != falling[:-1]])
    hits = np.add.reduceat(weights[:, order] * truth[order], starts, axis=1)
    misses = np.add.reduceat(weights[:, order] * ~truth[order], starts, axis=1)
    all_hits, all_misses = np.cumsum(hits, 1), np.cumsum(misses, 1)
    below = all_misses[:, -1:] - all_misses
    area = ratio((hits * (below + misses / 2)).sum(1), all_hits[:, -1] * all_misses[:, -1])
    precision = np.nan_to_num(ratio(all_hits, all_hits + all_misses))
    return area, ratio((hits * precision).sum(1), all_hits[:, -1])


def roc_curve(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares of false and of true alarms at each threshold, from (0, 0) to (1, 1)."""
    order = np.argsort(-scores, kind="stable")
    falling, hits = scores[order], np.cumsum(truth[order])
    ends = np.flatnonzero(np.r_[falling[1:] != falling[:-1], True])
    misses = ends + 1 - hits[ends]
    return np.r_[0, misses / max(1, (~truth).sum())], np.r_[0, hits[ends] / max(1, truth.sum())]
