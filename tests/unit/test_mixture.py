"""The mixture of sources: exact shares, each sample once a pass, and a position alone says the sample."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from medsd_ray.data.mixture import BLOCK, Balance, SourceMix, SourceSplit, mixture


def mix(*sources: tuple[int, dict[str, Any]], balance: Balance = "natural") -> SourceMix:
    return SourceMix(tuple(SourceSplit("", "train", samples, **named) for samples, named in sources), balance)


MIXES = {
    "one": mix((7, {})),
    "small": mix((5, {}), (11, {}), (2, {})),
    "large": mix((9000, {}), (3, {}), (20_000, {})),
    "weighted": mix((6000, {}), (50, {"kind": "generated", "weight": 0.1}), (700, {"weight": 0.25})),
    "rare": mix((9000, {}), *[(1000, {"weight": 0.0001})] * 5),
    "balanced": mix(
        (500, {"domain": "b"}),
        (20, {"domain": "a"}),
        (60, {"domain": "b"}),
        (7, {"domain": "a", "kind": "generated", "weight": 2}),
        balance="domain",
    ),
}
every_mix = pytest.mark.parametrize("name", MIXES)


def located(of: SourceMix, positions: range, seed: int = 3) -> list[tuple[int, int]]:
    order = mixture(of, seed)
    return [order.locate(position) for position in positions]


@every_mix
def test_the_samples_of_a_source_are_given_one_after_the_other_without_gap(name: str):
    found = located(MIXES[name], range(3 * BLOCK))
    given = [
        [place for source, place in found if source == number] for number in range(len(MIXES[name].sources))
    ]
    for places in given:
        assert sorted(places) == list(range(len(places)))


@every_mix
def test_a_position_alone_says_the_sample(name: str):
    of, positions = MIXES[name], range(2 * BLOCK + 5)
    expected = located(of, positions)
    order = mixture(of, 3)
    drawn = np.random.default_rng(0).permutation(positions)[:2000].tolist()
    assert [order.locate(position) for position in drawn] == [expected[position] for position in drawn]
    assert located(of, range(BLOCK - 3, BLOCK + 3)) == expected[BLOCK - 3 : BLOCK + 3]
    alone = len(of.sources) == 1
    assert (located(of, positions, seed=4) == expected) == alone


@pytest.mark.parametrize("name", ["one", "small", "large"])
def test_without_weights_each_sample_is_in_a_pass_once(name: str):
    of = MIXES[name]
    total = sum(source.samples for source in of.sources)
    for epoch in (0, 1, 2):
        found = located(of, range(epoch * total, (epoch + 1) * total))
        assert len(set(found)) == total
        assert Counter(source for source, _ in found) == {
            number: source.samples for number, source in enumerate(of.sources)
        }
        assert {place // of.sources[source].samples for source, place in found} == {epoch}


@every_mix
def test_shares_are_what_the_weights_say(name: str):
    of, many = MIXES[name], 20 * BLOCK
    assert sum(of.shares) == 1
    counts = Counter(source for source, _ in located(of, range(many)))
    for number, share in enumerate(of.shares):
        assert counts[number] / many == pytest.approx(float(share), abs=1e-3)


def test_a_weight_counts_samples_for_each_real_one():
    real, generated, other = MIXES["weighted"].shares
    assert generated / real == pytest.approx(0.1) and other / real == pytest.approx(0.25)
    # Of each real sample of its own domain, where domains are balanced: 20 of a, 2 generated for each.
    _, real, _, generated = MIXES["balanced"].shares
    assert (real, generated) == (pytest.approx(1 / 6), pytest.approx(2 / 6))


def test_domains_take_turns():
    found = located(MIXES["balanced"], range(1000))
    domains = [MIXES["balanced"].sources[source].domain for source, _ in found]
    assert domains == ["a", "b"] * 500 and MIXES["balanced"].domains == ("a", "b")


def test_sources_are_well_mixed():
    """In any hundred positions of a large mix a source has about its share."""
    found = np.array([source for source, _ in located(MIXES["large"], range(2 * BLOCK))])
    shares = (found == 0)[: 80 * 100].reshape(80, 100).mean(axis=1)
    assert abs(shares.mean() - 9000 / 29_003) < 0.01 and 0.03 < shares.std() < 0.07


def test_domains_are_known_where_every_source_names_one():
    assert mix((1, {"domain": "x"}), (1, {})).domains == ()
    assert mix((1, {"domain": "x"}), (1, {"domain": "a"}), (1, {"domain": "x"})).domains == ("a", "x")


def test_the_order_stays_what_it_was():
    """A resumed run goes on with the order that an earlier version of medsd or numpy began."""
    found = located(MIXES["small"], range(8), seed=1)
    assert found == [(0, 0), (0, 1), (1, 0), (2, 0), (0, 2), (2, 1), (1, 1), (1, 2)]
    found = located(MIXES["balanced"], range(8), seed=1)
    assert found == [(3, 0), (2, 0), (3, 1), (0, 0), (3, 2), (0, 1), (3, 3), (0, 2)]
