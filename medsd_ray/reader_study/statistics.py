"""Agreement between readers, and intervals of figures over images that several readers answered."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import cohen_kappa_score

from medsd_ray.evaluation.estimates import (
    Estimate,
    Missing,
    Withheld,
    resampled,
    resampled_share,
    too_few,
)

BOOTSTRAPS = 1000

IMAGES = "images"
"""What is drawn: each with all answers to it."""


def cohen_kappa(answers: np.ndarray, categories: int, *, quadratic: bool = False) -> float:
    """κ = 1 - Σ w·o / Σ w·e of two readers (Cohen 1960, doi 10.1177/001316446002000104; 1968, doi
    10.1037/h0026256).

    `answers` (images, 2) are ints below `categories`; o are the shares of each pair of answers, e those that
    each reader's shares alone would give, and the weight w of a disagreement is 1, or with `quadratic`, for
    ordered answers, (i - j)². NaN where e allows none.
    """
    with warnings.catch_warnings():  # NaN says it, and a bootstrap may draw such images often
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        kappa = cohen_kappa_score(
            answers[:, 0],
            answers[:, 1],
            labels=np.arange(categories),  # also those that nobody gave: weights are by their distance
            weights="quadratic" if quadratic else None,
        )
    return float(kappa)


def fleiss_kappa(counts: np.ndarray) -> float:
    """κ = (P̄ - P̄ₑ) / (1 - P̄ₑ) of n readers (Fleiss 1971, doi 10.1037/h0031619).

    `counts` (N, k): how many of the n readers gave each image each answer; every row sums to n. NaN where P̄ₑ
    is 1. torchmetrics' own adds 1e-5 to the denominator, which bends small samples and hides that case.
    """
    readers = counts.sum(1)[0]
    agreement = ((counts**2).sum(1) - readers) / (readers * (readers - 1))
    chance = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    return (float(agreement.mean()) - chance) / (1 - chance) if chance < 1 else float("nan")


def agreement(answers: np.ndarray, categories: int, *, ordered: bool = False) -> float:
    """κ of `answers` (images, readers), ints below `categories`: Cohen's for two readers, Fleiss' for more.

    `ordered` weights Cohen's quadratically; Fleiss' has no weights.
    """
    if answers.shape[1] == 2:
        return cohen_kappa(answers, categories, quadratic=ordered)
    return fleiss_kappa(np.stack([(answers == c).sum(1) for c in range(categories)], axis=1))


def bootstrap(count: int, figure: Callable[[np.ndarray], float], seed: int) -> np.ndarray | Missing:
    """`figure` of `count` images drawn with replacement, BOOTSTRAPS times; it gets their indices. Missing
    where there are too few images, or more than half of the draws have no figure.
    """
    if (few := too_few(count)) is not None:
        return few
    rng = np.random.default_rng([seed, 41])
    draws = np.array([figure(rng.integers(0, count, count)) for _ in range(BOOTSTRAPS)])
    draws = draws[np.isfinite(draws)]
    if len(draws) < BOOTSTRAPS / 2:
        return Missing("most draws of the images have no such figure")
    return draws


def with_interval(value: float, draws: np.ndarray | Missing) -> Estimate | Withheld:
    """A figure over images with the interval of its draws."""
    return Withheld(value, draws) if isinstance(draws, Missing) else resampled(value, draws.tolist(), IMAGES)


def mean_by_image(values: np.ndarray, images: np.ndarray, seed: int) -> Estimate | Withheld:
    """A mean, or of bools the share, over answers of several readers; its 95% interval draws images, with all
    answers to each.
    """
    names, of = np.unique(images, return_inverse=True)
    totals, counts = (
        np.bincount(of, weights=w, minlength=len(names)) for w in (values.astype(float), np.ones(len(values)))
    )
    mean = float(values.mean())
    draws = bootstrap(len(names), lambda drawn: totals[drawn].sum() / counts[drawn].sum(), seed)
    if values.dtype == bool and not isinstance(draws, Missing):
        return resampled_share(mean, draws.tolist(), len(names), IMAGES)
    return with_interval(mean, draws)
