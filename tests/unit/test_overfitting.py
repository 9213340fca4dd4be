"""Patience and the rise of the validation loss, on losses made by hand."""

from __future__ import annotations

import math

import pytest

from medsd_ray.runs.overfitting import out_of_patience, overfitting


@pytest.mark.parametrize(
    ("losses", "patience", "out"),
    [
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.4, 0.3], 1, False),
        ([0.5, 0.6], 1, True),
        ([0.5, 0.5], 1, True),  # as low is not lower
        ([0.5, 0.6, 0.4], 2, False),
        ([0.4, 0.6, 0.5], 2, True),
        ([0.4, 0.6, 0.5], 3, False),
        ([math.nan, 0.6], 1, False),
        ([0.6, math.nan], 1, True),
        ([0.4, 0.6, 0.5], None, False),
    ],
)
def test_patience_counts_validations_since_the_lowest(losses: list[float], patience: int | None, out: bool):
    assert out_of_patience(losses, patience) is out


def records(validated: list[float], training: list[float]) -> list[dict]:
    """A validation every 10 steps, and before each two training losses with this mean."""
    found = []
    for place, (loss, mean) in enumerate(zip(validated, training, strict=True), start=1):
        found += [{"step": 10 * place - 5, "loss": mean - 0.01}, {"step": 10 * place, "loss": mean + 0.01}]
        found.append({"step": 10 * place, "validation_loss": loss, "validation": 2})
    return found


def test_a_validation_loss_that_rises_while_the_training_loss_falls_is_said():
    said = overfitting(records([0.5, 0.3, 0.31, 0.4], [0.6, 0.4, 0.35, 0.3]))
    assert said and "rose from 0.3 at step 20 to 0.4 at step 40" in said and "fell from 0.4 to 0.3" in said


@pytest.mark.parametrize(
    ("validated", "training"),
    [
        ([0.5, 0.4, 0.3, 0.2], [0.6, 0.5, 0.4, 0.3]),  # it falls
        ([0.5, 0.3, 0.4], [0.6, 0.4, 0.3]),  # once is no rise
        ([0.5, 0.3, 0.301, 0.3], [0.6, 0.5, 0.4, 0.3]),  # within 1%
        ([0.5, 0.3, 0.31, 0.4], [0.6, 0.4, 0.45, 0.5]),  # both rise
        ([0.5, 0.4], [0.6, 0.5]),
    ],
)
def test_what_is_no_overfitting(validated: list[float], training: list[float]):
    assert overfitting(records(validated, training)) is None
