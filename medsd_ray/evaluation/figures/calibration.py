"""Whether probabilities are right: the expected calibration error over equal bins of confidence.

Guo et al. 2017 (arXiv 1706.04599), eq. 3: the mean over bins of the distance between how often the network
is right and how sure it is, each bin by its share of the decisions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medsd_ray.evaluation.figures.patient_draws import ratio

BINS = 15


def binned(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The decisions of N images, (N, ...), sorted into bins of equal width: (N, BINS, 3) float64, of each
    image and bin the number, the sum of confidences and the number of those that are right.
    """
    images = len(confidence)
    sure = confidence.reshape(images, -1).astype(np.float64)
    number = np.clip((sure * BINS).astype(int), 0, BINS - 1) + np.arange(images)[:, None] * BINS
    parts = (None, sure.ravel(), right.ravel().astype(np.float64))
    sums = [np.bincount(number.ravel(), weights=part, minlength=images * BINS) for part in parts]
    return np.stack(sums, axis=-1).reshape(images, BINS, 3)


def calibration_error(weights: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """(B,) errors of images with bins (N, BINS, 3) by weights (B, N)."""
    apart = np.abs(weights @ (bins[..., 1] - bins[..., 2])).sum(1)
    return ratio(apart, weights @ bins[..., 0].sum(1))


def reliability(bins: np.ndarray) -> list[dict[str, Any]]:
    """What the diagram shows: of each bin (of (N, BINS, 3), all images together) its decisions, how sure they
    are and how often right; null where it is empty.
    """
    totals = bins.sum(0)
    return [
        {
            "from": number / BINS,
            "to": (number + 1) / BINS,
            "count": int(count),
            "confidence": float(sure / count) if count else None,
            "accuracy": float(right / count) if count else None,
        }
        for number, (count, sure, right) in enumerate(totals)
    ]
