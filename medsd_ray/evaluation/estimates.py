"""A figure with its interval, or the reason why there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, sem
from scipy.stats import t as student


class Missing(str):
    """Why a figure was not computed, in words."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def interval(self) -> list[float]:
        return [self.low, self.high]


def put(section: dict, name: str, value: Any) -> None:
    """Writes a figure: an Estimate with its interval, a number, or for Missing null with the reason beside
    it.
    """
    if isinstance(value, float) and not math.isfinite(value):
        value = Missing("the computation gave no finite number")
    if isinstance(value, Missing):
        section[name] = None
        section[f"{name}_reason"] = str(value)
    elif isinstance(value, Estimate):
        section[name] = value.value
        section[f"{name}_interval"] = value.interval
    else:
        section[name] = value


def figure_row(
    figure: str, features: str | None, finding: str | None, value: Any, **counts: int
) -> dict[str, Any]:
    """A figure of a protocol as a row of its table, or null and why not, with the counts that it is from."""
    row: dict[str, Any] = {"figure": figure, "features": features, "finding": finding}
    put(row, "value", value)
    return row | counts


def wilson(successes: int, count: int) -> Estimate:
    """A share with its 95% Wilson score interval (Wilson 1927). Raises ValueError for no trials."""
    if count < 1:
        raise ValueError("a share needs at least one trial")
    interval = binomtest(successes, count).proportion_ci(confidence_level=0.95, method="wilson")
    return Estimate(successes / count, float(interval.low), float(interval.high))


def mean_t(values: np.ndarray) -> Estimate:
    """A mean with its 95% interval by Student's t. Raises ValueError below two values."""
    if len(values) < 2:
        raise ValueError("an interval of a mean needs two values or more")
    mean = float(values.mean())
    half = float(student.ppf(0.975, len(values) - 1) * sem(values))
    return Estimate(mean, mean - half, mean + half)
