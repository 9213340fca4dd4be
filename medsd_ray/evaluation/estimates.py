"""A figure with its interval, or the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import binomtest, sem
from scipy.stats import t as student


class Missing(str):
    """Why a figure was not computed, in words."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval. `method` says how the interval was found where it is not as usual."""

    value: float
    low: float
    high: float
    method: str | None = None

    @property
    def interval(self) -> list[float]:
        return [self.low, self.high]


@dataclass(frozen=True)
class Withheld:
    """A figure without its interval, and why there is none."""

    value: float
    why: Missing


ROUNDING = 1e-12
"""Of the size of a figure, or of 1 where it is smaller: numbers so near to each other are the same."""

FEWEST_IMAGES, FEWEST_PATIENTS = 30, 10
"""Of real images that judge: below either, resampling them says nothing of other patients, and an interval or
an area under a curve looks more exact than it is.
"""

TOO_FEW = "too few"
"""How the reason begins."""


def too_few(images: int, patients: int | None = None) -> Missing | None:
    """Why figures over so many images get no interval by resampling, and no AUROC; None where they do.
    `patients` is None where images are drawn one by one.
    """
    if images >= FEWEST_IMAGES and (patients is None or patients >= FEWEST_PATIENTS):
        return None
    of = "" if patients is None else f" of {patients} patients"
    needed = "" if patients is None else f" of {FEWEST_PATIENTS} patients"
    return Missing(f"{TOO_FEW}: {images} images{of}, where {FEWEST_IMAGES}{needed} are needed")


def unless_few(estimate: Estimate | Withheld, few: Missing | None) -> Estimate | Withheld:
    """The estimate, without its interval where there are too few images for one."""
    return estimate if few is None else Withheld(estimate.value, few)


def put(section: dict, name: str, value: Any) -> None:
    """Writes a figure: an Estimate with its interval, and its method where that is not as usual; Withheld
    with the reason in the interval's place, a number, or for Missing null with the reason beside it.
    """
    if isinstance(value, float) and not math.isfinite(value):
        value = Missing("the computation gave no finite number")
    if isinstance(value, Missing):
        section[name] = None
        section[f"{name}_reason"] = str(value)
    elif isinstance(value, Estimate):
        section[name] = value.value
        section[f"{name}_interval"] = value.interval
        if value.method is not None:
            section[f"{name}_interval_method"] = value.method
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


def resampled(value: float, draws: Sequence[float], units: str) -> Estimate | Withheld:
    """A figure with the 95% percentile interval of its bootstrap draws (Efron and Tibshirani 1993, ch. 13).

    `units`, such as "patients", are what was drawn. Where the draws do not differ, as of a perfect AUROC, the
    interval would have no width, as if the figure were exact: it is withheld.
    """
    low, high = (float(one) for one in np.quantile(draws, [0.025, 0.975]))
    if high - low > ROUNDING * max(1.0, abs(value)):
        return Estimate(value, low, high)
    why = f"the same in 95% or more of the draws of {units}, which bounds nothing"
    return Withheld(value, Missing(why))


def resampled_share(value: float, draws: Sequence[float], count: int, units: str) -> Estimate | Withheld:
    """As `resampled`, of a share over observations that hang together in `count` units. A share of all or of
    none gets Wilson's interval with each unit as one trial: what an image adds to another one of the same
    patient is not known, so it counts for nothing.
    """
    found = resampled(value, draws, units)
    if isinstance(found, Withheld) and value in (0.0, 1.0):
        return replace(wilson(int(value) * count, count), method=f"Wilson's of {count} {units}")
    return found


def mean_t(values: np.ndarray) -> Estimate | Withheld:
    """A mean with its 95% interval by Student's t; withheld where all values are the same up to rounding, as
    no spread was seen that could bound it. Raises ValueError below two values.
    """
    if len(values) < 2:
        raise ValueError("an interval of a mean needs two values or more")
    mean = float(values.mean())
    if np.ptp(values) <= ROUNDING * max(1.0, abs(mean)):
        return Withheld(mean, Missing(f"all {len(values)} values are the same, which bounds nothing"))
    half = float(student.ppf(0.975, len(values) - 1) * sem(values))
    return Estimate(mean, mean - half, mean + half)
