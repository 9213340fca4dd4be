"""Kappas and intervals against published worked examples and another library."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torchmetrics.functional.classification import multiclass_cohen_kappa

from medsd_ray.evaluation.estimates import Estimate, Missing, Withheld
from medsd_ray.reader_study.statistics import (
    agreement,
    bootstrap,
    cohen_kappa,
    fleiss_kappa,
    mean_by_image,
    with_interval,
)

# Fleiss 1971, table 1: 30 patients, 6 psychiatrists; depression, personality disorder, schizophrenia,
# neurosis, other.
FLEISS_1971 = """
00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006
"""
# The worked example of the encyclopaedias: 10 subjects, 14 raters, 5 categories.
FOURTEEN_RATERS = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip


def test_fleiss_kappa_of_published_tables():
    table = np.array([[int(digit) for digit in row] for row in FLEISS_1971.split()])
    assert table.shape == (30, 5) and (table.sum(1) == 6).all()
    assert table.sum(0).tolist() == [26, 26, 30, 55, 43]  # the paper's totals
    assert fleiss_kappa(table) == pytest.approx(0.430, abs=5e-4)
    assert fleiss_kappa(np.array(FOURTEEN_RATERS)) == pytest.approx(0.210, abs=5e-4)


def kappa_of_table(counts: list[list[int]]) -> float:
    """Of two readers whose pairs of answers occur so often."""
    answers = [pair for pair, count in np.ndenumerate(np.array(counts)) for _ in range(count)]
    return cohen_kappa(np.array(answers), len(counts))


def test_cohen_kappa_of_the_textbook():
    assert kappa_of_table([[20, 5], [10, 15]]) == pytest.approx(0.4)
    assert kappa_of_table([[45, 15], [25, 15]]) == pytest.approx(0.1304, abs=5e-5)
    assert kappa_of_table([[25, 35], [5, 35]]) == pytest.approx(0.2593, abs=5e-5)
    assert kappa_of_table([[3, 0], [0, 9]]) == pytest.approx(1.0)
    assert np.isnan(kappa_of_table([[7, 0], [0, 0]]))


def test_quadratic_weights_are_of_the_answers_themselves_not_of_those_that_occur():
    """Nobody answers 1 or 3: 0, 2 and 4 stay as far apart as they are."""
    answers = np.array([[0, 0], [0, 2], [2, 2], [4, 2], [4, 4], [4, 0]])
    observed = ((answers[:, 0] - answers[:, 1]) ** 2).mean()
    chance = np.mean([(one - other) ** 2 for one in answers[:, 0] for other in answers[:, 1]])
    assert cohen_kappa(answers, 5, quadratic=True) == pytest.approx(1 - observed / chance, abs=1e-12)


def test_weighted_kappa_is_torchmetrics_own():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 5, 60)
    other = np.clip(one + rng.integers(-1, 2, 60), 0, 4)
    both = np.stack([one, other], axis=1)
    for ordered, weights in ((False, None), (True, "quadratic")):
        theirs = multiclass_cohen_kappa(torch.from_numpy(one), torch.from_numpy(other), 5, weights)
        assert agreement(both, 5, ordered=ordered) == pytest.approx(float(theirs), abs=1e-6)


def test_three_readers_get_fleiss_and_two_get_cohen():
    rng = np.random.default_rng(1)
    answers = rng.integers(0, 2, (40, 3))
    counts = np.stack([(answers == c).sum(1) for c in range(2)], axis=1)
    assert agreement(answers, 2) == pytest.approx(fleiss_kappa(counts))
    assert agreement(np.zeros((5, 3), int), 2) != agreement(
        np.zeros((5, 3), int), 2
    )  # NaN: chance alone agrees


def test_the_bootstrap_draws_images_whole():
    """Ten readers who all say the same of an image are one observation, not ten."""
    images = np.repeat(np.arange(30), 10)
    values = np.repeat(np.arange(30) % 2, 10)
    by_image = mean_by_image(values, images, 0)
    as_if_single = mean_by_image(values, np.arange(300), 0)
    assert isinstance(by_image, Estimate) and isinstance(as_if_single, Estimate)
    assert by_image.value == as_if_single.value == 0.5
    assert (by_image.high - by_image.low) > 2.5 * (as_if_single.high - as_if_single.low)
    found = bootstrap(30, lambda _: float("nan"), 0)
    assert found == Missing("most draws of the images have no such figure")


def test_fewer_than_30_images_give_a_mean_without_an_interval():
    images = np.repeat(np.arange(29), 2)
    few = Missing("too few: 29 images, where 30 are needed")
    assert mean_by_image(np.ones(58), images, 0) == Withheld(1.0, few)
    assert bootstrap(29, lambda drawn: 1.0, 0) == few
    assert with_interval(1.0, few) == Withheld(1.0, few)


def test_answers_that_are_all_alike_are_not_shown_as_exact():
    """Three readers who are right about each of 40 images are 40 observations to Wilson's interval."""
    images, right = np.repeat(np.arange(40), 3), np.ones(120, dtype=bool)
    of_all = mean_by_image(right, images, 0)
    bound = binomtest(40, 40).proportion_ci(method="wilson")
    assert of_all == Estimate(1.0, bound.low, bound.high, "Wilson's of 40 images")
    none = binomtest(0, 40).proportion_ci(method="wilson")
    assert mean_by_image(~right, images, 0) == Estimate(0.0, none.low, none.high, "Wilson's of 40 images")
    same = Missing("the same in 95% or more of the draws of images, which bounds nothing")
    assert mean_by_image(right * 3.0, images, 0) == Withheld(3.0, same)
    assert with_interval(1.0, np.ones(1000)) == Withheld(1.0, same)  # such as a kappa
