"""A paper's experiment by the installed `medsd`: steps in order, each once, and a page of what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from command import assert_refused, medsd

PREPARE = "prepare {count} shards --kind phantom --size 64 --splits 0.5,0.25,0.25 --seed 3"
PAPER = {
    "title": "Where the samples go",
    "citation": "Nobody 2026",
    "link": "https://example.org/paper",
    "read": "all of it",
    "inferred": "nothing",
    "settings": {"small": {"count": 16}, "full": {"count": 24}},
    "steps": [PREPARE],
    "claims": [
        {
            "claim": "More samples train than judge",
            "reported": "half of them",
            "expected": "higher",
            "of": {"figure": "samples", "report": "shards/train/index.json"},
            "than": {"figure": "samples", "report": "shards/test/index.json"},
        },
        {
            "claim": "There is a report",
            "reported": "nothing",
            "expected": "lower",
            "of": {"figure": "x", "report": "absent.json"},
            "than": 1.0,
        },
    ],
}


def written(folder: Path, **changes) -> str:
    path = folder / "x.steps.yaml"
    path.write_text(yaml.safe_dump(PAPER | changes, sort_keys=False))
    return str(path)


def test_the_steps_run_once_and_the_page_says_what_they_measured(tmp_path: Path):
    path, out = written(tmp_path), tmp_path / "a folder"
    first = medsd("paper", path, "--out", str(out))
    assert first.returncode == 0, first.stderr
    index = out / "shards/train/index.json"
    made = index.stat().st_mtime_ns
    record = json.loads((out / "paper.json").read_text())
    one, other = record["claims"]
    assert one["verdict"] == "direction as claimed" and one["difference"] > 0
    assert one["of"]["value"] == json.loads(index.read_text())["samples"]
    assert other["verdict"] == "not measured" and other["of"]["value_reason"] == "there is no absent.json"
    page = (out / "paper.html").read_text()
    assert "More samples train than judge" in page and "direction as claimed" in page
    assert record["steps"][0]["command"].startswith("medsd prepare 16 shards")

    again = medsd("paper", path, "--out", str(out))
    assert again.returncode == 0 and index.stat().st_mtime_ns == made, "a step that is done is not done again"
    assert_refused(medsd("paper", path, "--out", str(out), "--size", "full"), "holds another experiment")


def test_a_step_that_fails_ends_the_experiment(tmp_path: Path):
    path = written(tmp_path, steps=["prepare absent shards --kind folder", PREPARE])
    result = medsd("paper", path, "--out", str(tmp_path / "out"))
    assert result.returncode == 1
    assert "step 1 of 2, medsd prepare, ended with exit code 2" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out/shards").exists() and not (tmp_path / "out/paper.json").exists()


@pytest.mark.parametrize("words", [["--size", "middle"], []])
def test_wrong_words_start_nothing(words: list[str], tmp_path: Path):
    """`--out` is needed, and the sizes are two."""
    out = ["--out", str(tmp_path / "out")] if words else []
    assert medsd("paper", written(tmp_path), *out, *words).returncode == 2
    assert not (tmp_path / "out").exists()
