"""Whether a claim holds, by the two figures that it compares. Pure functions."""

from __future__ import annotations

from typing import Literal

import numpy as np

from medsd_ray.evaluation.estimates import Estimate, Missing, mean_t
from medsd_ray.papers.measured import Measured
from medsd_ray.spec.paper import Expected, Size

Verdict = Literal[
    "holds",
    "does not hold",
    "too few to say",
    "direction as claimed",
    "direction against the claim",
    "not measured",
]


def difference(of: Measured, than: Measured) -> tuple[float, tuple[float, float] | None, str | None]:
    """`of` less `than`, with a 95% interval and how it was found, where there can be one.

    By seed, where both have two seeds or more in common: Student's t of the differences. Against a number, or
    between two reports: of the intervals' ends, which is wider than need be, as it knows not what the two
    have in common.
    """
    seeds = sorted(set(of.by_seed) & set(than.by_seed))
    if len(seeds) > 1:
        pairs = np.array([of.by_seed[seed] - than.by_seed[seed] for seed in seeds])
        found = mean_t(pairs)
        interval = (found.low, found.high) if isinstance(found, Estimate) else None
        return float(pairs.mean()), interval, f"Student's t over {len(seeds)} seeds"
    if len(of.by_seed) > 1 and not than.by_seed and than.interval is None:
        found = mean_t(np.array(list(of.by_seed.values())))
        if isinstance(found, Estimate):
            interval = (found.low - than.value, found.high - than.value)
            return found.value - than.value, interval, f"Student's t over {len(of.by_seed)} seeds"
    if of.interval is not None:
        low, high = than.interval or (than.value, than.value)
        return of.value - than.value, (of.interval[0] - high, of.interval[1] - low), "of both intervals"
    return of.value - than.value, None, None


def verdict(
    of: Measured | Missing,
    than: Measured | Missing,
    expected: Expected,
    size: Size,
) -> Verdict:
    """A claim holds, or does not, where the interval of the difference lies on one side of 0; the small size
    tells no more than a direction.
    """
    if isinstance(of, Missing) or isinstance(than, Missing):
        return "not measured"
    value, interval, _ = difference(of, than)
    sign = 1 if expected == "higher" else -1
    if size == "small" or interval is None:
        if value == 0 or size == "full":
            return "too few to say"
        return "direction as claimed" if sign * value > 0 else "direction against the claim"
    low, high = sorted(sign * end for end in interval)
    return "holds" if low > 0 else "does not hold" if high < 0 else "too few to say"
