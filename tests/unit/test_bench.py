"""The benchmarks' own arithmetic: goals, and how much of a run that fails is useful."""

from __future__ import annotations

import importlib
import json
import random
import statistics
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
FIELDS = {"name", "ours", "peer", "unit", "ratio", "goal", "met", "device", "versions"}


@pytest.fixture(autouse=True)
def bench_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))


def test_no_benchmark_hides_a_module_of_the_standard_library():
    assert not {path.stem for path in BENCH.glob("*.py")} & set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", sorted((BENCH / "results").glob("*.json")), ids=lambda path: path.stem)
def test_results_have_the_agreed_fields_and_true_verdicts(path):
    met = importlib.import_module("common").met
    for row in json.loads(path.read_text()):
        assert set(row) == FIELDS, row["name"]
        if isinstance(row["goal"], str):
            assert row["met"] == met(row["goal"], row["ours"], row["ratio"]), row["name"]


def test_a_goal_is_met_by_the_figure_that_it_names():
    met = importlib.import_module("common").met
    assert met("ours < 0.5", 0.4, None) is True
    assert met("ratio >= 2", 100.0, 1.9) is False
    assert met("ratio >= 2", None, None) is None
    assert met(None, 1.0, 1.0) is None


@pytest.mark.parametrize("upload", [0.0, 30.0])
def test_the_simulated_goodput_is_the_closed_forms(upload):
    outages = importlib.import_module("outages")
    costs, mtbf = outages.Costs(stall=5, upload=upload, restart=120), 3600.0
    interval = outages.best_interval(costs, mtbf)
    runs = [outages.simulate(costs, mtbf, interval, segments=2000, seed=seed) for seed in range(10)]
    assert statistics.mean(runs) == pytest.approx(outages.expected(costs, mtbf, interval), rel=0.02)


def test_goodput_where_failures_spare_restarts_is_the_closed_forms():
    outages, times = importlib.import_module("outages"), random.Random(1)
    costs, mtbf, interval, segments, clock = (
        outages.Costs(stall=5, upload=0, restart=60),
        90.0,
        40.0,
        20_000,
        0.0,
    )
    for _ in range(segments):
        while (failure := times.expovariate(1 / mtbf)) < interval + costs.stall:
            clock += failure + costs.restart
        clock += interval + costs.stall
    foreseen = outages.expected_of_training(costs, mtbf, interval)
    assert segments * interval / clock == pytest.approx(foreseen, rel=0.02)
    assert foreseen > outages.expected(costs, mtbf, interval)


def test_no_other_interval_is_better_than_dalys():
    outages = importlib.import_module("outages")
    costs, mtbf = outages.Costs(stall=5, upload=0, restart=120), 3600.0
    best = outages.best_interval(costs, mtbf)
    assert (
        max((best / 3, best, 3 * best), key=lambda interval: outages.expected(costs, mtbf, interval)) == best
    )


def test_a_save_waits_for_the_upload_before_it():
    outages = importlib.import_module("outages")
    slow = outages.Costs(stall=0.1, upload=60, restart=10)
    assert outages.best_interval(slow, 3600.0) == 60
    assert 0 < outages.simulate(slow, 3600.0, 10, segments=500, seed=0) < 0.2


def test_each_instant_of_a_step_belongs_to_the_part_that_began_last():
    events = [("backward", 1.0, 5.0), ("communication", 2.0, 3.0), ("data wait", 0.0, 0.5)]
    found = importlib.import_module("scaling").parts_of(events, seconds=6.0)
    wanted = {
        "data wait": 0.5,
        "forward": 0.0,
        "backward": 3.0,
        "communication": 1.0,
        "update": 0.0,
        "rest": 1.5,
    }
    assert found == pytest.approx(wanted)
