"""Guidance by a prompt and conditions, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conditioned import GIVEN, SETTINGS, SQUARE, conditioned

from medsd_ray.errors import InputError
from medsd_ray.generation.guidance import independent, joint
from medsd_ray.generation.sampling import sample_images
from medsd_ray.spec.images import Guidance, Sampling


def test_one_condition_guides_alike_jointly_and_independently():
    rng = torch.Generator().manual_seed(0)
    without, alone = torch.randn(2, 3, 4, 8, 8, generator=rng)
    assert torch.equal(joint(without, alone, 3.5), independent(without, [(3.5, alone)]))


def test_weights_of_zero_leave_the_unconditional_prediction():
    without, first, second = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(independent(without, [(0.0, first), (0.0, second)]), without)
    assert torch.equal(joint(without, first, 0.0), without)


def test_independent_guidance_gives_the_score_of_a_product_of_gaussians():
    """p(x) = N(0, 1), p(x | c_i) = N(m_i, 1): p(x | c_1, c_2) ∝ p(x) Π p(x | c_i) / p(x) = N(m_1 + m_2, 1).

    Noised, q(x_t | ...) = N(√ā m, 1) and ε = -√(1 - ā) ∇ log q = √(1 - ā) (x_t - √ā m). DDIM from the
    guided ε reaches the product's mean.
    """
    means, weights = (1.5, -0.4), (1.0, 1.0)
    abar = torch.linspace(math.acos(0.9999**0.5), math.pi / 2 - 1e-3, 1000).cos() ** 2
    abar = torch.cat([torch.ones(1), abar])

    def eps(x: torch.Tensor, a: torch.Tensor, mean: float) -> torch.Tensor:
        return (1 - a).sqrt() * (x - a.sqrt() * mean)

    x = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    start = x.clone()
    for t in range(1000, 0, -1):
        a, before = abar[t].double(), abar[t - 1].double()
        guided = independent(eps(x, a, 0.0), [(w, eps(x, a, m)) for w, m in zip(weights, means, strict=True)])
        x0 = (x - (1 - a).sqrt() * guided) / a.sqrt()
        x = before.sqrt() * x0 + (1 - before).sqrt() * guided
    # A variance of 1 stays 1, so that the flow moves x by the mean alone.
    torch.testing.assert_close(x, start + sum(means), atol=2e-2, rtol=0)


@pytest.fixture(scope="module")
def model():
    return conditioned(learnt=True)


def images(model, given, guidance=Guidance(), scale=3.0, prompts=("a", "a", "a")) -> np.ndarray:
    sampling = Sampling(steps=2, guidance_scale=scale)
    indices = list(range(len(given)))
    return sample_images(
        model, prompts[: len(given)], indices, seed=0, sampling=sampling, conditions=given, guidance=guidance
    )


def test_images_follow_their_conditions_each_for_itself(model):
    together = images(model, GIVEN)
    assert (together != images(model, [{}, {}, {}])).any(axis=(1, 2, 3)).tolist() == [True, True, False]
    for guidance in (Guidance(), Guidance("independent", {"age": 2.0})):
        both = images(model, GIVEN, guidance)
        assert np.array_equal(images(model, GIVEN[:1], guidance), both[:1])  # whatever else is in its batch
    assert (both[0] != images(model, GIVEN, Guidance("independent"))[0]).any()


def test_without_conditions_a_prompt_guides_as_ever(model):
    nothing = [{}, {}, {}]
    assert np.array_equal(images(model, nothing), images(model, nothing, Guidance("independent")))
    weightless = Guidance("independent", dict.fromkeys(SETTINGS.conditions, 0.0))
    assert np.array_equal(images(model, GIVEN, weightless), images(model, nothing))
    assert (images(model, [{"type": SQUARE}] * 3, scale=1.0) != images(model, nothing, scale=1.0)).any()


@pytest.mark.parametrize(
    ("kind", "weights", "words"),
    [
        ("both", {}, "guidance 'both' is not known; choose joint or independent"),
        ("independent", {"age": 101}, "the weight of age is 101; choose from 0 to 100"),
        ("joint", {"age": 1.0}, "add --guidance independent"),
    ],
)
def test_a_guidance_that_is_none_is_refused(kind, weights, words):
    with pytest.raises(InputError, match=words):
        Guidance(kind, weights)
