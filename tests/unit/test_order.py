"""The order of samples: complete, reproducible, the same for any number of workers, small for any number of
samples.
"""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from medsd_ray.data.order import Order, batch_positions


@pytest.mark.parametrize(
    "sizes", [(1,), (3, 5, 2, 7), (0, 4, 0, 0, 1, 0), (10,) * 33, (7,) * 16, tuple(range(40))]
)
@pytest.mark.parametrize("block_shards", [1, 2, 16])
def test_each_epoch_has_every_sample_once(sizes: tuple[int, ...], block_shards: int):
    order = Order(sizes, 3, block_shards)
    every = {(shard, row) for shard, size in enumerate(sizes) for row in range(size)}
    for epoch in (0, 1, 1000):
        seen = [order.sample_at(epoch * order.samples + place) for place in range(order.samples)]
        assert len(seen) == len(every) and set(seen) == every


def test_a_position_alone_says_the_sample():
    sizes = (30,) * 40
    forwards, backwards = Order(sizes, 5), Order(sizes, 5)
    positions = range(3 * 1200)
    expected = {p: forwards.sample_at(p) for p in positions}
    assert {p: backwards.sample_at(p) for p in reversed(positions)} == expected


def test_epochs_and_seeds_differ():
    sizes = (50,) * 8
    orders = [
        [Order(sizes, seed).sample_at(p + 400 * epoch) for p in range(400)]
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    for i, one in enumerate(orders):
        for other in orders[i + 1 :]:
            assert sum(a == b for a, b in zip(one, other, strict=True)) < 20  # about 1 is expected


def test_an_epoch_is_well_shuffled():
    order = Order((100,) * 10, 0)
    ranks = [100 * shard + row for shard, row in map(order.sample_at, range(1000))]
    assert abs(np.corrcoef(ranks, range(1000))[0, 1]) < 0.1
    assert abs(np.corrcoef(ranks[:-1], ranks[1:])[0, 1]) < 0.1


def test_few_shards_are_open_at_a_time():
    order = Order((20,) * 50, 1, block_shards=4)
    for start in range(0, 1000, 80):
        shards = {order.sample_at(p)[0] for p in range(start, min(start + 80, 1000))}
        assert shards <= set(order.block_shards_of(*order.locate(start)).tolist())
        assert len(shards) <= 4


@pytest.mark.parametrize("step", [0, 7])
def test_workers_share_a_step_without_gap_or_overlap(step: int):
    whole = list(batch_positions(step, 12, 0, 1))
    assert whole == list(range(12 * step, 12 * step + 12))
    for world_size in (2, 3, 4, 12):
        assert [p for rank in range(world_size) for p in batch_positions(step, 12, rank, world_size)] == whole


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="12 does not divide over 5"):
        batch_positions(0, 12, 0, 5)


def test_no_samples_are_refused():
    with pytest.raises(ValueError):
        Order((0, 0), 0)


def test_ten_million_samples_cost_little():
    tracemalloc.start()
    order = Order((1000,) * 10_000, 0)
    started = time.perf_counter()
    for position in range(9_999_000, 10_001_000):  # over an epoch's end
        order.sample_at(position)
    seconds, (_, peak) = time.perf_counter() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20
    assert seconds < 5


def test_the_order_stays_what_it_was():
    """A resumed run goes on with the order that an earlier version of medsd or numpy began."""
    order = Order((3, 5, 2, 7), 1, block_shards=2)
    assert [order.sample_at(p) for p in range(6)] == [(1, 2), (0, 0), (0, 1), (1, 1), (0, 2), (1, 3)]
    assert [order.sample_at(p) for p in range(17, 20)] == [(2, 1), (0, 2), (2, 0)]
