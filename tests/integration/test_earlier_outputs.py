"""A run and a study that an earlier version began are gone on with to their ends, as if undisturbed."""

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

LATENTS = "latents/frozen-941a5665"
"""Where the study keeps the latents of its model's own VAE; the fixture has them once, beside the study."""
KEPT = (LATENTS, "trials/0000/", "trials/0001/checkpoints/step-00000008/")


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what was written, as the working directory: the run's spec names its data from there."""
    shutil.copytree(EA425E8, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_of_an_earlier_version_goes_on_as_if_undisturbed(earlier: Path):
    done("train", "run/run.yaml", "--resume")
    then = [json.loads(line) for line in (earlier / "undisturbed.jsonl").read_text().splitlines()]
    now = [(r["step"], r["loss"]) for r in records(earlier, "run") if "loss" in r]
    assert [step for step, _ in now] == [r["step"] for r in then if "loss" in r]
    torch.testing.assert_close(
        [value for _, value in now], [r["loss"] for r in then if "loss" in r], rtol=1e-5, atol=0.0
    )
    # Its validation losses were of other weights and timesteps: kept, and not compared with new ones.
    validated = {r["step"]: r for r in records(earlier, "run") if "loss" not in r}
    loss = next(r["validation_loss"] for r in then if "validation_loss" in r)
    assert validated[2]["validation_loss_1"] == loss and "validation_loss" not in validated[2]
    assert validated[4]["validation"] == 2
    assert FolderStorage(earlier / "run").read_json("best.json")["step"] == 4
    assert len(losses(earlier, "run", after=2)) == 2
    adapted, before = load_components(str(earlier / "run")), load_components(str(EA425E8 / "run"))
    assert any(
        not torch.equal(a, b)
        for a, b in zip(adapted.unet.parameters(), before.unet.parameters(), strict=True)
    )


def test_a_study_of_an_earlier_version_goes_on_and_runs_no_finished_trial_again(earlier: Path):
    output = FolderStorage(earlier / "study")
    shutil.copytree(earlier / "latents", earlier / "study" / LATENTS)
    before = {path: output.read(path) for path in output.list() if path.startswith(KEPT)}
    assert {path.split("/")[0] for path in before} == {"latents", "trials"}
    settings = ("--set", f"output={earlier / 'study'}", "--set", f"shards={earlier / 'shards'}")
    said = done("tune", "study/study.yaml", "--resume", *settings)
    assert {path: output.read(path) for path in before} == before
    assert {path.rpartition("/")[0] for path in output.list("latents/")} <= {
        path.rpartition("/")[0] for path in before
    }, "encoded again"

    finished, resumed = output.read_json("study.json")["trials"]
    assert (finished["status"], resumed["status"], resumed["steps"]) == ("done", "done", 20)
    assert finished["metrics"] == output.read_json("trials/0000/trial.json")["metrics"]
    assert resumed["metrics"]["validation_loss"] > 0
    assert [r["step"] for r in records(earlier, "study/trials/0001") if "loss" in r] == [8, 10, 20]
    assert output.read_json("study.json")["state"] == "done"
    assert "Best: trial" in said and output.exists("best.yaml")
