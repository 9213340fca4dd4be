"""A run and a study that an earlier version began are gone on with to their ends, as if nothing had
happened.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from command import done
from earlier import EA425E8
from run_records import losses, records

from medsd_ray.models.load import load_components
from medsd_ray.storage import FolderStorage


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what was written, as the working directory: the run's spec names its data from there."""
    shutil.copytree(EA425E8, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_of_an_earlier_version_goes_on_as_if_undisturbed(earlier: Path):
    done("train", "run/run.yaml", "--resume")
    then = [json.loads(line) for line in (earlier / "undisturbed.jsonl").read_text().splitlines()]
    for name in ("loss", "validation_loss"):
        now = [(r["step"], r[name]) for r in records(earlier, "run") if name in r]
        assert [step for step, _ in now] == [r["step"] for r in then if name in r]
        torch.testing.assert_close(
            [value for _, value in now], [r[name] for r in then if name in r], rtol=1e-5, atol=0.0
        )
    assert len(losses(earlier, "run", after=2)) == 2
    adapted, before = load_components(str(earlier / "run")), load_components(str(EA425E8 / "run"))
    assert any(
        not torch.equal(a, b)
        for a, b in zip(adapted.unet.parameters(), before.unet.parameters(), strict=True)
    )


def test_a_study_of_an_earlier_version_goes_on_and_runs_no_finished_trial_again(earlier: Path):
    output = FolderStorage(earlier / "study")
    kept = [path for path in output.list() if path.startswith(("trials/0000/", "detector/", "latents/"))]
    before = {path: output.read(path) for path in kept}
    said = done(
        "tune",
        "study/study.yaml",
        "--resume",
        "--set",
        f"output={earlier / 'study'}",
        "--set",
        "shards=shards",
    )
    assert {path: output.read(path) for path in kept} == before
    found = output.read_json("study.json")
    assert found["state"] == "done" and [trial["status"] for trial in found["trials"]] == ["done", "done"]
    assert all(trial["metrics"]["validation_loss"] > 0 for trial in found["trials"])
    assert len(output.read_json("trials/0001/images/generated.json")["images"]) == 4
    assert found["best"] and "Best: trial" in said and output.exists("best.yaml")
