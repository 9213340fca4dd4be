"""A paper's steps and claims: what is refused before anything runs, and which verdict which figures give."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal

import pytest
import yaml
from command import assert_refused, medsd_here
from scipy.stats import t as student

from medsd_ray.errors import InputError
from medsd_ray.evaluation.estimates import Missing
from medsd_ray.papers.experiment import judged, load_paper
from medsd_ray.papers.measured import Measured, measure
from medsd_ray.papers.verdict import difference, verdict
from medsd_ray.spec.paper import Claim, Measurement
from medsd_ray.storage import open_storage

TUNING = Path(__file__).parents[2] / "tuning"
PAPER = {
    "title": "T",
    "citation": "C",
    "link": "https://arxiv.org/abs/1",
    "read": "all",
    "inferred": "nothing",
    "settings": {"small": {"count": 8, "seeds": [0]}, "full": {"count": 80, "seeds": [0, 1]}},
    "steps": [
        {
            "drawn": "prepare {count} shards --kind phantom",
            "data": "prepare {data} shards --kind folder --caption 'a b'",
        },
        "tune {here}/x.yaml --set seeds={seeds}",
    ],
    "claims": [
        {
            "claim": "a",
            "reported": "b",
            "expected": "higher",
            "of": {"figure": "auroc", "study": "study"},
            "than": 0.5,
        }
    ],
}


def written(folder: Path, **changes) -> Path:
    path = folder / "x.steps.yaml"
    path.write_text(yaml.safe_dump(PAPER | changes, sort_keys=False))
    return path


def by_seed(*values: float) -> Measured:
    return Measured(sum(values) / len(values), "x", dict(enumerate(values)))


@pytest.mark.parametrize("path", sorted(TUNING.glob("*.steps.yaml")), ids=lambda path: path.name)
def test_the_papers_of_the_repository_are_whole(path: Path):
    paper = load_paper(path)
    for size in ("small", "full"):
        for given in ({"here": "/h"}, {"here": "/h", "data": "/d"}):
            for words in paper.commands(size, given):
                for word in words:
                    if word.startswith("/h/"):
                        assert (TUNING / word.removeprefix("/h/")).exists()


def test_a_step_is_made_of_the_size_and_of_the_images(tmp_path: Path):
    paper = load_paper(written(tmp_path))
    assert paper.commands("small", {"here": "/a b"}) == [
        ["prepare", "8", "shards", "--kind", "phantom"],
        ["tune", "/a b/x.yaml", "--set", "seeds=[0]"],
    ]
    assert paper.commands("full", {"here": "/h", "data": "/my data"}) == [
        ["prepare", "/my data", "shards", "--kind", "folder", "--caption", "a b"],
        ["tune", "/h/x.yaml", "--set", "seeds=[0, 1]"],
    ]


def test_a_claim_speaks_of_the_settings_of_the_size(tmp_path: Path):
    of = {"figure": "fid", "study": "study", "where": {"training.max_steps": "{count}", "a": "b"}}
    claims = [PAPER["claims"][0] | {"of": of}]
    paper = load_paper(written(tmp_path, claims=claims))
    (small,), (full,) = paper.claims_of("small"), paper.claims_of("full")
    assert isinstance(small.of, Measurement) and small.of.where == {"training.max_steps": 8, "a": "b"}
    assert isinstance(full.of, Measurement) and full.of.where == {"training.max_steps": 80, "a": "b"}
    assert small.than == full.than == 0.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": ["rm -rf shards"]}, "'rm' is not one of prepare, encode"),
        ({"steps": ["prepare {many} shards"]}, "step 1: {many} is not among settings.small: count, seeds"),
        ({"steps": [{"drawn": "prepare {data} shards"}]}, "{data} is not among"),
        ({"steps": ["prepare 'shards"]}, "is no command"),
        ({"steps": ["prepare {count:>9} shards"]}, "braces hold a word alone"),
        ({"steps": ["prepare {count shards"]}, "expected '}'"),
        ({"settings": {"small": {}}}, "give small and full"),
        ({"claims": []}, "claims"),
        (
            {"claims": [PAPER["claims"][0] | {"of": {"figure": "f", "study": "s", "where": {"a": "{x}"}}}]},
            "{x} is not among settings.small",
        ),
        ({"link": "ftp://x"}, "link"),
    ],
)
def test_a_wrong_paper_is_refused(change: dict, said: str, tmp_path: Path):
    with pytest.raises(InputError) as error:
        load_paper(written(tmp_path, **change))
    assert said in str(error.value)


def test_refused_before_a_step_runs(tmp_path: Path):
    path, out = written(tmp_path), tmp_path / "out"
    assert_refused(
        medsd_here("paper", str(path), "--out", str(out), "--data", str(tmp_path / "absent")),
        "no such folder",
    )
    assert not out.exists()
    out.mkdir()
    (out / "theirs").write_text("x")
    assert_refused(medsd_here("paper", str(path), "--out", str(out)), "holds other files")


def test_the_difference_is_of_the_same_seeds():
    """Student's t of paired differences 1, 2, 3: mean 2, standard error 1/sqrt(3)."""
    value, interval, _ = difference(by_seed(2.0, 4.0, 6.0), by_seed(1.0, 2.0, 3.0))
    half = student.ppf(0.975, 2) / math.sqrt(3)
    assert value == 2.0
    assert interval == pytest.approx((2.0 - half, 2.0 + half))


@pytest.mark.parametrize(
    ("of", "than", "expected", "size", "said"),
    [
        (by_seed(9.0, 9.1, 9.2), by_seed(1.0, 1.2, 1.1), "higher", "full", "holds"),
        (by_seed(9.0, 9.1, 9.2), by_seed(1.0, 1.2, 1.1), "lower", "full", "does not hold"),
        (by_seed(9.0, 1.1, 5.2), by_seed(1.0, 9.2, 5.1), "lower", "full", "too few to say"),
        (by_seed(9.0, 9.1, 9.2), by_seed(1.0, 1.2, 1.1), "higher", "small", "direction as claimed"),
        (by_seed(9.0), by_seed(1.0), "higher", "full", "too few to say"),
        (by_seed(9.0), by_seed(1.0), "lower", "small", "direction against the claim"),
        (by_seed(1.0), by_seed(1.0), "lower", "small", "too few to say"),
        (by_seed(0.8, 0.81, 0.82), Measured(0.5, "a fixed number"), "higher", "full", "holds"),
        (Measured(0.8, "r", interval=(0.7, 0.9)), Measured(0.5, "n"), "higher", "full", "holds"),
        (
            Measured(0.8, "r", interval=(0.7, 0.9)),
            Measured(0.6, "r", interval=(0.5, 0.75)),
            "higher",
            "full",
            "too few to say",
        ),
        (Missing("no trial"), by_seed(1.0), "lower", "full", "not measured"),
    ],
)
def test_the_verdict(of, than, expected, size, said):
    assert verdict(of, than, expected, size) == said


def trial(params: dict, seed: int, value: float | None, status: str = "done") -> dict:
    return {"params": params, "seed": seed, "status": status, "metrics": {"fid": value}}


def test_a_study_is_read_by_combination_and_seed(tmp_path: Path):
    full, lora = {"components.unet": {"method": "full", "learning_rate": 1e-3}}, {"components.unet": "lora"}
    (tmp_path / "study").mkdir()
    trials = [trial(full, 0, 2.0), trial(full, 1, 4.0), trial(lora, 0, 1.0), trial(lora, 1, None, "failed")]
    (tmp_path / "study/study.json").write_text(json.dumps({"trials": trials}))
    store = open_storage(str(tmp_path))

    def of(direction: Literal["higher", "lower"] = "lower", **fields):
        return measure(store, Measurement(figure="fid", study="study", **fields), direction)

    found = of(where={"components.unet": "full"})
    assert isinstance(found, Measured) and (found.value, found.by_seed) == (3.0, {0: 2.0, 1: 4.0})
    assert isinstance(of(), Missing), "two combinations, and no word which"
    best = of(pick="best")
    assert isinstance(best, Measured) and best.value == 1.0 and "best of 2" in best.of
    worst = of("higher", pick="best")
    assert isinstance(worst, Measured) and worst.value == 3.0
    assert "no finished trial" in str(of(where={"components.unet": "frozen"}))


def test_a_report_is_read_with_its_interval_and_its_reason(tmp_path: Path):
    report = {
        "fid": {"generated": 2.0, "generated_interval": [1.0, 3.0], "base": None, "base_reason": "no base"},
        "counts": {"generated": 40},
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    store = open_storage(str(tmp_path))
    of = Measurement(figure="fid.generated", report="report.json", count="counts.generated")
    assert measure(store, of, "lower") == Measured(2.0, "report.json", {}, (1.0, 3.0), 40)
    claim = Claim(
        claim="a",
        reported="b",
        expected="lower",
        of=of,
        than=Measurement(figure="fid.base", report="report.json"),
    )
    row = judged(store, claim, "full")
    assert row["verdict"] == "not measured" and row["than"]["value_reason"].endswith("fid.base: no base")
