"""Figures over weighted images, and their bootstrap over patients (Efron and Tibshirani 1993, ch. 13).

A draw of patients with replacement is a row of weights: how often each image's patient was drawn. A figure is
a function of such rows, so that all draws are computed at once; its value is that of the row of ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medsd_ray.evaluation.estimates import (
    Estimate,
    Missing,
    Withheld,
    resampled,
    resampled_share,
    too_few,
    unless_few,
)

DRAWS = 1000
CHUNK = 2**22
"""Weights at a time, 32 MB of them."""

Values = Mapping[str, np.ndarray]
Figures = Callable[[np.ndarray], Values]
"""From weights (B, N) to figures by name, (B,) each, nan where one is not defined."""


@dataclass(frozen=True)
class Form:
    """What kind of figure one is. `share`: of images that are right or not; `area`: under a curve, withheld
    where few images judge; `undefined`: why it may be none.
    """

    share: bool = False
    area: bool = False
    undefined: str = "no image of a class is here"


class PatientDraws:
    """The draws of one evaluation, the same for every figure, so that differences are paired."""

    def __init__(self, patients: Sequence[str], seed: int):
        """Draws patients.

        Args:
            patients: Of each image.
            seed: What the draws follow from, with the number of patients.
        """
        _, self.numbers = np.unique(np.asarray(patients), return_inverse=True)
        count = int(self.numbers.max()) + 1
        rng = np.random.default_rng([seed, 29])
        self.counts = np.stack(
            [np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(DRAWS)]
        )

    def patients(self, of: np.ndarray) -> int:
        """How many patients the images `of` (indices or bool, (N,)) are of."""
        return len(np.unique(self.numbers[of]))

    def compute(self, figures: Figures, of: np.ndarray) -> tuple[Values, Values]:
        """(values, draws) of figures over the images `of` (indices): name -> (1,), and name -> (DRAWS,)."""
        values = figures(np.ones((1, len(of))))
        rows = max(1, CHUNK // max(1, len(of)))
        parts = [
            figures(self.counts[start : start + rows, self.numbers[of]].astype(np.float64))
            for start in range(0, DRAWS, rows)
        ]
        return values, {name: np.concatenate([part[name] for part in parts]) for name in values}

    def estimates(
        self, figures: Figures, of: np.ndarray, forms: Mapping[str, Form]
    ) -> dict[str, Estimate | Withheld | Missing]:
        """Each figure over the images `of` (indices) with its interval, or why it or the interval is not
        there.
        """
        values, draws = self.compute(figures, of)
        few, patients = too_few(len(of), self.patients(of)), self.patients(of)
        return {
            name: estimate(float(values[name][0]), draws[name], forms[name], few, patients) for name in values
        }


def estimate(
    value: float, draws: np.ndarray, form: Form, few: Missing | None, patients: int
) -> Estimate | Withheld | Missing:
    """A figure from its value and its draws, of which those that are not defined are left aside."""
    if not np.isfinite(value):
        return Missing(form.undefined)
    if few is not None and form.area:
        return few
    defined = draws[np.isfinite(draws)]
    if not len(defined):
        return Withheld(value, few or Missing("not defined in any draw of patients"))
    found = (
        resampled_share(value, defined.tolist(), patients, "patients")
        if form.share
        else resampled(value, defined.tolist(), "patients")
    )
    return unless_few(found, few)


def weighted_mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(B,) means of values (N,) by weights (B, N); nan values are left out; nan where none is left."""
    there = np.isfinite(values)
    return ratio(weights[:, there] @ values[there], weights[:, there].sum(1))


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, nan where that is 0."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
