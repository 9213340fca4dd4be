"""What a run's losses say of how it goes: whether its validation loss still falls. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

RISE = 1.01
"""Times the lowest validation loss that a later one must be to count as risen."""


def validations(records: Iterable[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Step and validation loss of the records that have one."""
    return [(r["step"], r["validation_loss"]) for r in records if r.get("validation_loss") is not None]


def lowest(losses: Sequence[float]) -> int:
    """The place of the lowest loss, of equal ones the first; what is no number counts as the highest."""
    return min(range(len(losses)), key=lambda place: (math.isnan(losses[place]), losses[place]))


def out_of_patience(losses: Sequence[float], patience: int | None) -> bool:
    """Whether the last `patience` validations, or more, gave no lower loss than one before them."""
    return patience is not None and bool(losses) and len(losses) - 1 - lowest(losses) >= patience


def overfitting(records: Sequence[Mapping[str, Any]]) -> str | None:
    """One line where the validation loss rises while the training loss falls; None where it does not.

    It rises where the last validation, at least the second after the lowest, is 1% above that. The training
    loss is its mean from the validation before to the one that is meant.
    """
    found = validations(records)
    if len(found) < 3 or any(math.isnan(loss) for _, loss in found):
        return None
    best, last = lowest([loss for _, loss in found]), len(found) - 1
    (best_step, low), (last_step, high) = found[best], found[last]
    if last - best < 2 or high < RISE * low:
        return None
    before, now = (_training(records, found, place) for place in (best, last))
    if before is None or now is None or now >= before:
        return None
    return (
        f"the validation loss rose from {low:.4g} at step {best_step} to {high:.4g} at step {last_step}, "
        f"while the training loss fell from {before:.4g} to {now:.4g}: the run learns its images by heart"
    )


def _training(
    records: Sequence[Mapping[str, Any]], found: Sequence[tuple[int, float]], place: int
) -> float | None:
    """The mean training loss from the validation before to that at `place`."""
    start, end = found[place - 1][0] if place else 0, found[place][0]
    losses = [r["loss"] for r in records if "loss" in r and start < r["step"] <= end]
    return fmean(losses) if losses else None
