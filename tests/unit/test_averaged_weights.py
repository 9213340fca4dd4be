"""The moving average in the place of the weights, and the weights again, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from specs import RUN, changed
from torch import Tensor, nn

from medsd_ray.runs.fragments import by_name
from medsd_ray.spec.load import parse_run
from medsd_ray.training.averaged_weights import AveragedWeights
from medsd_ray.training.ema import Ema
from medsd_ray.training.replicated_engine import ReplicatedEngine


class Scorer(nn.Module):
    """A module with one trained component, as an engine wants it: a batch in, its loss out."""

    def __init__(self):
        super().__init__()
        self.unet = nn.Linear(3, 2)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.unet(batch["x"].to(self.unet.weight.dtype)).float().square().mean()


@pytest.fixture(autouse=True, scope="module")
def _alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def engine_of(precision: str) -> ReplicatedEngine:
    run = parse_run(
        changed(RUN, {"name": "small", "training.zero_stage": 0, "training.precision": precision})
    )
    return ReplicatedEngine(Scorer(), run, {"unet": 0.1}, torch.device("cpu"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_engine_computes_with_the_averages_and_then_with_its_weights(precision: str):
    engine = engine_of(precision)
    owned, batch = engine.owned_ranges(), {"x": torch.randn(4, 3)}
    ema = Ema([part.view(part.tensor) for _, part in owned], decay=0.9)
    averaged = AveragedWeights(engine, owned, ema, by_name(piece for piece, _ in owned))
    for step in range(3):
        engine.step([batch], 1.0)
        ema.update(step)
    held = lambda: [
        *(p.detach().clone() for p in engine.module.parameters()),
        *(part.view(part.tensor).clone() for _, part in owned),
    ]
    before, expected = held(), Scorer().to(engine.dtype)
    with torch.no_grad():
        for parameter, average in zip(expected.parameters(), ema.averages, strict=True):
            parameter.copy_(average.view(parameter.shape))
        with averaged.in_place():
            assert engine(batch) == expected(batch)
            assert not torch.equal(next(engine.module.parameters()), before[0])
    assert all(torch.equal(a, b) for a, b in zip(held(), before, strict=True))


def test_without_averages_nothing_changes():
    engine = engine_of("fp32")
    before = [p.detach().clone() for p in engine.module.parameters()]
    with AveragedWeights(engine, engine.owned_ranges(), None, {}).in_place():
        assert all(torch.equal(a, b) for a, b in zip(engine.module.parameters(), before, strict=True))
