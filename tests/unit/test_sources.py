"""Several sources of training samples: what is taken of them, what is left unread, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medsd_ray.data.domains import of_domain
from medsd_ray.data.loader import batches
from medsd_ray.data.prepare import prepare
from medsd_ray.data.shards import Index, Sample, Shard, ShardWriter, read_index, write_index
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.errors import InputError
from medsd_ray.spec.load import parse_run
from medsd_ray.spec.run import RunSpec
from medsd_ray.storage import open_storage
from medsd_ray.training.checked_run import CheckedRun
from medsd_ray.training.datasets import open_dataset
from medsd_ray.training.ray_train import _from_plain, _plain
from medsd_ray.training.sources import data_fingerprint, find_sources, find_validation, mix_of, together
from medsd_ray.training.stages.kinds import VAE

STAGE: Any = SimpleNamespace(tokenizer=None, targets=None, condition_targets=None)
"""All that a data set asks of a stage."""
VALUES = {"A": 40, "B": 80, "C": 200, None: 120}
"""Domain -> the brightness of all of its images: a marker that tells where a sample comes from."""


def write(folder: Path, domains: dict[str | None, int], split: str = "train", size: int = 8) -> str:
    writer = ShardWriter(open_storage(folder / split), 20_000, "image", split, size=size)
    for domain, count in domains.items():
        for number in range(count):
            image = np.full((size, size), VALUES[domain], np.uint8)
            writer.write(Sample(f"{domain}{number}", image, "x", f"{domain}{number}", domain=domain))
    writer.meta["domains"] = {domain: count for domain, count in domains.items() if domain}
    writer.finish()
    return str(folder)


@pytest.fixture
def sites(tmp_path: Path) -> str:
    write(tmp_path / "sites", {"A": 4, "B": 4}, "validation")
    return write(tmp_path / "sites", {"A": 30, "B": 20, "C": 25})


@pytest.fixture
def drawn(tmp_path: Path) -> str:
    write(tmp_path / "drawn", {None: 5}, "validation")
    return write(tmp_path / "drawn", {None: 100})


def run_of(*sources: dict[str, Any], batch: int = 6, **data: Any) -> RunSpec:
    return parse_run(
        {
            "name": "x",
            "data": {"sources": list(sources)} | data,
            "components": {"vae": "full"},
            "training": {"max_steps": 10, "global_batch_size": batch},
            "output": "out",
        }
    )


def seen(run: RunSpec, steps: int = 50, world_size: int = 1) -> list[dict[str, torch.Tensor]]:
    """The batches of a run's steps, those of the workers one after the other."""
    mix = mix_of(run, find_sources(run, VAE))
    streams = [
        batches(
            open_dataset(run, mix, STAGE), first_step=0, last_step=steps,
            global_batch_size=run.training.global_batch_size, micro_batch_size=100, rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]  # fmt: skip
    return [
        {name: torch.cat([worker[0][name] for worker in step]) for name in step[0][0]}
        for step in zip(*streams, strict=True)
    ]


def shades(steps: list[dict[str, torch.Tensor]]) -> Counter[int]:
    pixels = torch.cat([step["pixel_values"][:, 0, 0, 0] for step in steps])
    return Counter(((pixels + 1) * 127.5).round().int().tolist())


def test_a_domain_that_is_held_out_is_never_read(sites: str):
    """Its shards are gone, and those of the others are all seen."""
    for shard in read_index(sites).shards:
        if shard.domain == "C":
            Path(sites, "train", shard.name).unlink()
    steps = seen(run_of({"shards": sites, "domain": "A"}, {"shards": sites, "domain": "B"}))
    assert shades(steps) == {VALUES["A"]: 180, VALUES["B"]: 120}
    for step in steps:
        expected = [VALUES["A"] if domain == 0 else VALUES["B"] for domain in step["domain"].tolist()]
        assert ((step["pixel_values"][:, 0, 0, 0] + 1) * 127.5).round().int().tolist() == expected
        assert step["domain"].dtype == torch.int64


def test_a_weight_is_the_share_of_generated_samples(sites: str, drawn: str):
    generated = {"shards": drawn, "kind": "generated", "weight": 0.5}
    steps = seen(run_of({"shards": sites, "domain": "A"}, generated))
    assert shades(steps) == {VALUES["A"]: 200, VALUES[None]: 100}
    assert "domain" not in steps[0]  # the generated ones name none
    assert shades(seen(run_of({"shards": sites, "domain": "A"}, {"shards": drawn}), 65)) == {
        VALUES["A"]: 90,
        VALUES[None]: 300,
    }


def test_balanced_batches_have_as_many_of_each_domain(sites: str, drawn: str):
    sources = [{"shards": sites, "domain": domain} for domain in "CBA"]
    for step in seen(run_of(*sources, balance="domain")):
        assert Counter(step["domain"].tolist()) == {0: 2, 1: 2, 2: 2}
    # Generated images of no known domain are all of the one that is named.
    more = {"shards": drawn, "domain": "B", "kind": "generated", "weight": 1}
    assert shades(seen(run_of(*sources, more, balance="domain"), 60)) == {
        VALUES["A"]: 120,
        VALUES["B"]: 60,
        VALUES[None]: 60,
        VALUES["C"]: 120,
    }
    with pytest.raises(InputError, match=r"global_batch_size \(8\) is not a multiple of the 3 domains"):
        find_sources(run_of(*sources, balance="domain", batch=8), VAE)


@pytest.mark.parametrize("balance", ["natural", "domain"])
def test_the_number_of_workers_changes_nothing(sites: str, balance: str):
    run = run_of(*[{"shards": sites, "domain": domain} for domain in "ABC"], balance=balance)
    whole = seen(run)
    for world_size in (2, 3):
        for one, other in zip(whole, seen(run, world_size=world_size), strict=True):
            assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_one_source_is_the_same_as_train(drawn: str):
    run = run_of({"shards": drawn})
    train = run.model_copy(update={"data": run.data.model_copy(update={"train": drawn, "sources": []})})
    for one, other in zip(seen(run), seen(train), strict=True):
        assert torch.equal(one["pixel_values"], other["pixel_values"])
        assert one.keys() == other.keys()


def test_validation_is_beside_the_real_sources(sites: str, drawn: str):
    both = [{"shards": sites, "domain": domain} for domain in "AC"]
    mix = find_validation(run_of(*both, {"shards": drawn, "kind": "generated"}), VAE)
    assert mix and [(one.split, one.domain, one.samples) for one in mix.sources] == [("validation", "A", 4)]
    assert find_validation(run_of({"shards": drawn, "kind": "generated"}), VAE) is None
    assert find_validation(run_of({"shards": sites, "domain": "C"}), VAE) is None  # it has none
    named = find_validation(run_of(*both, validation=drawn), VAE)
    assert named and [one.samples for one in named.sources] == [5]


def test_labels_and_masks_are_counted_of_the_domains_that_are_taken(tmp_path: Path):
    prepare(SourceRequest("60", "phantom", size=16, sites=("A", "B")), str(tmp_path / "two"))
    whole = read_index(str(tmp_path / "two")).meta
    parts = [{"shards": str(tmp_path / "two"), "domain": domain} for domain in "AB"]
    metas = [together(find_sources(run_of(part), VAE)).meta for part in parts]
    for domain, meta in zip("AB", metas, strict=True):
        held = whole["domains"][domain]
        assert sum(meta["labels"]["finding"].values()) == meta["masks"]["lungs"] == held
    both = together(find_sources(run_of(*parts), VAE))
    assert (both.meta["labels"], both.meta["masks"]) == (whole["labels"], whole["masks"])
    assert both.samples == sum(whole["domains"].values())


def test_what_does_not_fit_is_refused(sites: str, tmp_path: Path):
    with pytest.raises(InputError, match=r"no samples of the domain 'D' here; there are A, B, C"):
        find_sources(run_of({"shards": sites, "domain": "D"}), VAE)
    other = write(tmp_path / "other", {None: 5}, size=16)
    with pytest.raises(InputError, match=r"images of 16 px, but those of .* are of 8 px"):
        find_sources(run_of({"shards": sites}, {"shards": other}), VAE)


def test_domains_of_an_earlier_version_are_not_guessed(sites: str, tmp_path: Path):
    index = read_index(sites)
    earlier = replace(index, shards=tuple(replace(shard, domain=None) for shard in index.shards))
    write_index(open_storage(f"{sites}/train"), earlier)
    with pytest.raises(InputError, match=r"mix domains, as an earlier version wrote them; prepare again"):
        find_sources(run_of({"shards": sites, "domain": "A"}), VAE)
    assert find_sources(run_of({"shards": sites}), VAE)[0].source.samples == 75
    # Where all are of one domain, there is nothing to guess.
    alone = Index("image", "train", (Shard("a", 5, 1, "0"),), {"domains": {"A": 5}})
    assert of_domain(alone, "A", "") is alone
    with pytest.raises(InputError, match="no samples of the domain 'B'"):
        of_domain(alone, "B", "")


def test_the_fingerprint_tells_mixtures_apart(sites: str, drawn: str):
    a, b = ({"shards": sites, "domain": domain} for domain in "AB")
    generated = {"shards": drawn, "kind": "generated"}
    runs = [
        run_of(a),
        run_of(b),
        run_of(a, b),
        run_of(a, b, balance="domain"),
        run_of(a, generated),
        run_of(a, generated | {"weight": 1}),
        run_of(a, generated | {"weight": 0.5}),
        run_of(a, generated | {"kind": "real"}),
        run_of({"shards": sites}),
    ]
    prints = [data_fingerprint(run, find_sources(run, VAE)) for run in runs]
    assert len(set(prints)) == len(runs)
    assert prints == [data_fingerprint(run, find_sources(run, VAE)) for run in runs]


def test_workers_are_told_the_sources(sites: str, drawn: str):
    run = run_of(
        {"shards": sites, "domain": "A"}, {"shards": drawn, "domain": "B", "kind": "generated"},
        balance="domain", validation=sites,
    )  # fmt: skip
    mix = mix_of(run, find_sources(run, VAE))
    checked = CheckedRun(run, "m", mix, find_validation(run, VAE), None, {"data": "d"})
    told = json.loads(json.dumps({"spec": run.model_dump(mode="json"), **_plain(checked)}))
    assert _from_plain(told) == checked
