"""The learning rate against its definition and torch's own schedulers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from medsd_ray.training.learning_rate import learning_rate_factor


def test_warm_up_is_linear_and_ends_at_the_peak():
    assert [learning_rate_factor(step, 4, 20) for step in range(5)] == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 1.0]
    )


def test_cosine_is_torchs():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    for step in range(30):
        assert learning_rate_factor(10 + step, 10, 40) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_no_warm_up_starts_at_the_peak_and_no_step_is_lost_at_zero():
    factors = [learning_rate_factor(step, 0, 10) for step in range(10)]
    assert factors[0] == 1.0
    assert all(a > b > 0 for a, b in pairwise(factors))
