"""Randomness by (seed, position, purpose): the right distributions, independent streams, the same in any
batch.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from medsd_ray.data.randomness import keyed_generator, keyed_integers, keyed_noise, keyed_uniform

MANY = range(10_000)


def test_uniform_is_uniform():
    values = keyed_uniform(0, MANY, "dropout")
    assert values.dtype == torch.float32 and values.shape == (10_000,)
    assert values.min() >= 0 and values.max() < 1
    assert stats.kstest(values.numpy(), "uniform").pvalue > 0.001


def test_noise_is_normal_within_and_across_samples():
    noise = keyed_noise(1, range(5000), (4, 3), "noise")
    assert noise.dtype == torch.float32 and noise.shape == (5000, 4, 3)
    for values in (noise.flatten(), noise[:, 0, 0], noise[:, 3, 2]):
        assert stats.kstest(values.numpy(), "norm").pvalue > 0.001


def test_integers_are_even():
    values = keyed_integers(2, MANY, 10, "timesteps")
    assert values.dtype == torch.int64
    assert stats.chisquare(np.bincount(values.numpy(), minlength=10)).pvalue > 0.001


def test_streams_are_independent():
    base = keyed_noise(0, range(2000), (8,), "noise")
    shifted = keyed_noise(0, range(1, 2001), (8,), "noise")
    others = [
        keyed_noise(1, range(2000), (8,), "noise"),
        keyed_noise(0, range(2000), (8,), "offset"),
        torch.cat([shifted[:, 1:], shifted[:, :1]], 1),  # the neighbour's stream, one draw on
    ]
    assert torch.equal(base[1:], shifted[:-1])
    for other in others:
        correlation = np.corrcoef(base.flatten(), other.flatten())[0, 1]
        assert abs(correlation) < 4 / np.sqrt(base.numel())
    lagged = np.corrcoef(base[:-1].flatten(), base[1:].flatten())[0, 1]
    assert abs(lagged) < 4 / np.sqrt(base.numel())


def test_a_sample_is_the_same_in_any_batch():
    for draw in (
        lambda positions: keyed_noise(3, positions, (2, 4, 4), "noise"),
        lambda positions: keyed_uniform(3, positions, "dropout"),
        lambda positions: keyed_integers(3, positions, 1000, "timesteps"),
    ):
        together = draw(torch.tensor([9, 4, 10**12, 0]))
        for at, position in enumerate((9, 4, 10**12, 0)):
            assert torch.equal(draw([position])[0], together[at])


def test_a_generator_is_the_one_the_helpers_draw_from():
    draws = keyed_generator(5, 77, "noise").standard_normal((2, 3), np.float32)
    assert np.array_equal(draws, keyed_noise(5, [77], (2, 3), "noise")[0].numpy())


def test_the_values_stay_what_they_were():
    """A resumed run goes on with the noise that an earlier version of medsd or numpy began."""
    assert keyed_integers(7, [5, 6, 7], 1000, "timesteps").tolist() == [294, 326, 690]
    assert np.allclose(keyed_uniform(7, [5, 6], "dropout"), [0.0638, 0.3471], atol=1e-4)
    expected = torch.tensor([[-0.0055, -0.0509], [-0.4884, 1.0112]])
    assert torch.allclose(keyed_noise(7, [0, 123456789], (2,), "noise"), expected, atol=1e-4)
