"""Distances between sets of features, against closed forms and other implementations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from medsd_ray.evaluation.estimates import mean_t, wilson
from medsd_ray.evaluation.figures import distances
from medsd_ray.evaluation.figures.distances import Features


def exact_gaussian(count: int, mean: np.ndarray, covariance: np.ndarray, seed: int) -> np.ndarray:
    """Samples whose mean and covariance are exactly these."""
    x = np.random.default_rng(seed).standard_normal((count, len(mean)))
    x -= x.mean(0)
    white = np.linalg.solve(np.linalg.cholesky(np.cov(x.T)), x.T).T
    return white @ np.linalg.cholesky(covariance).T + mean


def with_singles(values: np.ndarray) -> Features:
    return Features(values, [str(i) for i in range(len(values))])


def test_fid_of_gaussians_is_the_closed_form():
    deviations, others = np.array([1.0, 2.0, 0.5]), np.array([3.0, 1.0, 0.5])
    x = exact_gaussian(40, np.zeros(3), np.diag(deviations**2), 0)
    y = exact_gaussian(55, np.array([1.0, -2.0, 0.0]), np.diag(others**2), 1)
    # For commuting covariances: |Δμ|² + Σ (σx - σy)².
    assert distances.frechet_distance(x, y) == pytest.approx(5 + 4 + 1 + 0, rel=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1e-9])
def test_fid_keeps_its_digits_where_features_depend_on_each_other(scale: float):
    deviations, others = np.array([1.0, 2.0, scale or 1.0]), np.array([3.0, 1.0, scale or 1.0])
    x = exact_gaussian(40, np.zeros(3), np.diag(deviations**2), 0)
    y = exact_gaussian(55, np.zeros(3), np.diag(others**2), 1)
    if not scale:
        x[:, 2] = y[:, 2] = 0
    turned, _ = np.linalg.qr(np.random.default_rng(2).standard_normal((3, 3)))
    assert distances.frechet_distance(x @ turned, y @ turned) == pytest.approx(4 + 1, rel=1e-12)


@pytest.mark.parametrize(("count", "dims"), [(50, 8), (12, 30)])
def test_fid_agrees_with_scipy_and_torchmetrics(count: int, dims: int):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((count, dims)) @ rng.standard_normal((dims, dims))
    y = rng.standard_normal((count + 7, dims)) + 0.5
    got = distances.frechet_distance(x, y)

    class AsIs(torch.nn.Module):
        num_features = dims

        def forward(self, features):
            return features

    metric = FrechetInceptionDistance(feature=AsIs())
    metric.update(torch.from_numpy(x), real=True)
    metric.update(torch.from_numpy(y), real=False)
    assert got == pytest.approx(metric.compute().item(), rel=1e-6)
    if count > dims:  # a matrix root of singular covariances is what scipy cannot do
        root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
        wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
        assert got == pytest.approx(wanted, rel=1e-8)


def test_fid_of_a_set_with_itself_is_zero_even_with_fewer_samples_than_features():
    x = np.random.default_rng(0).standard_normal((5, 40))
    assert distances.frechet_distance(x, x) == pytest.approx(0, abs=1e-10)
    with pytest.raises(ValueError, match="2 samples"):
        distances.frechet_distance(x[:1], x)


def test_kid_agrees_with_its_definition():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((9, 4)), rng.standard_normal((9, 4)) + 1
    kernel = lambda a, b: (a @ b / 4 + 1) ** 3
    pairs = [(i, j) for i in range(9) for j in range(9)]
    apart = [(i, j) for i, j in pairs if i != j]
    wanted = np.mean([kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in apart])
    wanted -= 2 * np.mean([kernel(x[i], y[j]) for i, j in pairs])
    assert distances.kernel_distance(x, y) == pytest.approx(wanted, rel=1e-10)


def test_precision_recall_density_coverage_agree_with_their_definitions():
    rng = np.random.default_rng(2)
    real, fake, k = rng.standard_normal((30, 3)), rng.standard_normal((25, 3)) * 0.7 + 0.4, 5
    radius = lambda s, i: sorted(np.linalg.norm(s[i] - s[j]) for j in range(len(s)) if j != i)[k - 1]
    in_real = [[np.linalg.norm(f - r) < radius(real, i) for i, r in enumerate(real)] for f in fake]
    in_fake = [[np.linalg.norm(f - r) < radius(fake, j) for j, f in enumerate(fake)] for r in real]
    got = distances.prdc(real, fake, k)
    assert got == pytest.approx(
        {
            "precision": np.mean([any(row) for row in in_real]),
            "recall": np.mean([any(row) for row in in_fake]),
            "density": np.mean([sum(row) for row in in_real]) / k,
            "coverage": np.mean([any(column) for column in zip(*in_real, strict=True)]),
        }
    )
    with pytest.raises(ValueError, match="more than 5 samples"):
        distances.prdc(real[:5], fake)


def test_draw_keeps_patients_together():
    groups = [f"p{i // 3}" for i in range(30)]
    chosen = distances.draw(groups, 14, np.random.default_rng(0))
    counts = [sum(groups[i] == g for i in chosen) for g in sorted({groups[i] for i in chosen})]
    assert len(set(chosen.tolist())) == 14
    assert sorted(counts) == [2, 3, 3, 3, 3]


def test_compare_tells_a_near_set_from_a_far_one_and_not_two_equal_ones():
    rng = np.random.default_rng(5)
    sample = lambda count, shift: with_singles(rng.standard_normal((count, 6)) + shift)
    reference = sample(60, 0.0)
    told = distances.compare(
        reference, {"generated": sample(70, 0.3), "base": sample(50, 1.5), "real": sample(80, 0)}, 0, 40
    )
    assert told.samples == 50  # all are cut to the smallest set
    assert told.fid["real"].value < told.fid["generated"].value < told.fid["base"].value
    assert told.fid_difference is not None
    assert told.fid_difference.high < 0
    assert told.share_below == 1.0
    for estimate in (*told.fid.values(), *told.kid.values()):
        assert estimate.low <= estimate.value <= estimate.high
    same = distances.compare(reference, {"generated": sample(50, 0.0), "base": sample(50, 0.0)}, 0, 40)
    assert same.fid_difference is not None
    assert same.fid_difference.low < 0 < same.fid_difference.high


def test_compare_is_a_function_of_its_seed():
    rng = np.random.default_rng(5)
    sets = [with_singles(rng.standard_normal((20, 3))) for _ in range(3)]
    once, again, other = (
        distances.compare(sets[0], {"generated": sets[1], "base": sets[2]}, seed, 10) for seed in (1, 1, 2)
    )
    assert once == again
    assert once.fid["generated"].interval != other.fid["generated"].interval


@pytest.mark.parametrize(("right", "count"), [(0, 10), (7, 10), (10, 10), (190, 200)])
def test_wilson_agrees_with_scipy(right: int, count: int):
    wanted = scipy.stats.binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right, count).interval == pytest.approx([wanted.low, wanted.high], abs=1e-6)


def test_the_interval_of_a_mean_is_students():
    found = mean_t(np.array([1.0, 2, 3, 4, 5]))
    assert (found.low, found.value, found.high) == pytest.approx(
        (1.0368, 3.0, 4.9632), abs=1e-4
    )  # 3 ± 2.776·√2.5/√5
