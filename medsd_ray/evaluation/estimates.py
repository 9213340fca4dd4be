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


@dataclass(frozen=True)
class Withheld:
    """A figure without its interval, and why there is none."""

    value: float
    why: Missing


FEWEST_IMAGES, FEWEST_PATIENTS = 30, 10
"""Of real images that judge: below either, resampling them says nothing of other patients, and an interval or
an area under a curve looks more exact than it is.
"""


def too_few(images: int, patients: int | None = None) -> Missing | None:
    """Why figures over so many images get no interval by resampling, and no AUROC; None where they do.
    `patients` is None where images are drawn one by one.
    """
    if images >= FEWEST_IMAGES and (patients is None or patients >= FEWEST_PATIENTS):
        return None
    of = "" if patients is None else f" of {patients} patients"
    needed = "" if patients is None else f" of {FEWEST_PATIENTS} patients"
    return Missing(f"too few: {images} images{of}, where {FEWEST_IMAGES}{needed} are needed")


def unless_few(estimate: Estimate, few: Missing | None) -> Estimate | Withheld:
    """The estimate, without its interval where there are too few images for one."""
    return estimate if few is None else Withheld(estimate.value, few)


def put(section: dict, name: str, value: Any) -> None:
    """Writes a figure: an Estimate with its interval, Withheld with the reason in the interval's place, a
    number, or for Missing null with the reason beside it.
    """
    if isinstance(value, float) and not math.isfinite(value):
        value = Missing("the computation gave no finite number")
    if isinstance(value, Missing):
        section[name] = None
        section[f"{name}_reason"] = str(value)
    elif isinstance(value, Estimate):
        section[name] = value.value
        section[f"{name}_interval"] = value.interval
    elif isinstance(value, Withheld):
        section[name] = value.value
        put(section, f"{name}_interval", value.why)
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
