"""The moving average against its recurrence."""

from __future__ import annotations

import pytest
import torch

from medsd_ray.training.ema import Ema, ema_decay


def test_decay_warms_up_to_its_ceiling():
    assert [ema_decay(step, 0.99) for step in (0, 10, 10_000)] == pytest.approx([0.1, 0.55, 0.99])


def test_average_follows_live_views_of_the_weights():
    flat = torch.randn(10, dtype=torch.float32)
    views = [flat.narrow(0, 0, 4), flat.narrow(0, 4, 6)]
    ema, expected = Ema(views, decay=0.9), flat.clone().double()
    for step in range(30):
        flat += torch.randn(10, generator=torch.Generator().manual_seed(step))
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * flat.double()
    torch.testing.assert_close(torch.cat(ema.averages).double(), expected, atol=1e-5, rtol=1e-5)


def test_no_pieces_is_no_work():
    Ema([], decay=0.9).update(0)
