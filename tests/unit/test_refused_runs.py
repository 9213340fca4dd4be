"""A run that is refused leaves every byte of its output as it was: all is checked before the first write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from run_outputs import STEPS, write_output
from small_latents import write_latents
from tiny import tiny_components

from medsd_ray.errors import InputError
from medsd_ray.models.save import save_pipeline
from medsd_ray.spec.load import dump_run, parse_run
from medsd_ray.spec.run import RunSpec
from medsd_ray.storage import FolderStorage
from medsd_ray.training import checks, run
from medsd_ray.training.checks import check_inputs


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, latents of two kinds, and the outputs `finished` and `stopped` of one run."""
    root = tmp_path_factory.mktemp("refused")
    components = tiny_components(0)
    save_pipeline(components, root / "model")
    for name, value in (("latents", 0.0), ("others", 1.0)):
        write_latents(str(root / name), components, str(root / "model"), samples=4, value=value)
    torch.manual_seed(0)
    for name in ("finished", "stopped"):
        write_output(spec(root, name), components, finished=name == "finished")
    return root


def spec(root: Path, output: str, **changes: Any) -> RunSpec:
    values: dict[str, Any] = {
        "name": "r",
        "model": str(root / "model"),
        "data": {"train": str(root / "latents")},
        "components": {"unet": "full", "text_encoder": "full"},
        "training": {"max_steps": STEPS, "global_batch_size": 4} | changes.pop("training", {}),
        "output": str(root / output),
    }
    return parse_run(values | changes)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 and time of change of every file below a folder."""
    return {
        str(
            path.relative_to(folder)
        ): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray that would have no GPU, and workers that must not start."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(checks, "ensure_ray", lambda slots: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(run, "fit_and_show", lambda *arguments: pytest.fail("the workers were started"))


@pytest.mark.parametrize("output", ["finished", "stopped"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda root: {"training": {"max_steps": 8}},
            r"--resume: training\.max_steps is 8, but 6 in .*step-",
        ),
        (lambda root: {"training": {"global_batch_size": 8}}, "training.global_batch_size is 8, but 4"),
        (lambda root: {"data": {"train": str(root / "others")}}, "the data is not the one"),
        (lambda root: {"data": {"train": str(root / "nowhere")}}, "no finished 'train' split"),
        (lambda root: {"resources": {"use_gpu": True}}, "this machine has 0; set use_gpu to false"),
        (
            lambda root: {"training": {"patience": 2}},
            "patience counts validations, and there is no validation",
        ),
        (
            lambda root: {"checkpoint": {"select": {"figure": "validation_loss"}}},
            "validation_loss needs a validation split",
        ),
    ],
)
def test_a_refused_resume_changes_nothing(
    root: Path, no_ray: None, output: str, change: Callable[[Path], dict[str, Any]], words: str
):
    before = digests(root / output)
    for auto_resume in (False, True) if output == "stopped" else (False,):
        with pytest.raises(InputError, match=words):
            run.train(spec(root, output, **change(root)), resume=True, auto_resume=auto_resume)
    assert digests(root / output) == before


def test_a_start_over_a_run_changes_nothing(root: Path, no_ray: None):
    before = digests(root / "finished")
    with pytest.raises(InputError, match="go on with --resume"):
        run.train(spec(root, "finished"))
    assert digests(root / "finished") == before


def test_a_refused_start_leaves_no_output(root: Path, no_ray: None):
    with pytest.raises(InputError, match="this machine has 0"):
        run.train(spec(root, "new", resources={"use_gpu": True}))
    assert not (root / "new").exists()


def test_a_run_that_is_allowed_is_written_down_before_its_workers_start(
    root: Path, no_ray: None, monkeypatch: pytest.MonkeyPatch
):
    class WorkersStarted(Exception):
        pass

    def workers(*arguments: Any) -> None:
        raise WorkersStarted

    monkeypatch.setattr(run, "fit_and_show", workers)
    allowed = spec(root, "allowed", training={"log_every": 2})
    write_output(spec(root, "allowed"), tiny_components(0), finished=False)
    with pytest.raises(WorkersStarted):
        run.train(allowed, resume=True)
    folder = root / "allowed"
    assert (folder / "run.yaml").read_text() == dump_run(allowed)
    assert json.loads((folder / "manifest.json").read_text())["spec"]["training"]["log_every"] == 2
    assert not (folder / "progress.json").exists()


def test_a_damaged_newest_checkpoint_is_for_the_workers_to_leave_aside(root: Path, no_ray: None):
    """Its description cannot be trusted; the one before it can, and is of another run here."""
    write_output(spec(root, "damaged"), tiny_components(0), finished=False)
    newest = root / "damaged/checkpoints/step-00000005"
    FolderStorage(newest).upload_tree(root / "damaged/checkpoints/step-00000003")
    (newest / "checkpoint.json").write_text("{}")
    before = digests(root / "damaged")
    with pytest.raises(InputError, match=r"max_steps is 8, but 6 in .*step-00000003"):
        run.train(spec(root, "damaged", training={"max_steps": 8}), resume=True)
    assert digests(root / "damaged") == before


def test_latents_of_another_size_than_the_models_are_said_and_kept(
    root: Path, capsys: pytest.CaptureFixture[str]
):
    components = tiny_components(0)
    components.sample_size = (6, 6)
    write_latents(str(root / "smaller"), components, str(root / "model"), samples=4)
    data = {"data": {"train": str(root / "smaller")}}
    latents = check_inputs(spec(root, "of-smaller", **data)).latents
    assert latents and latents.sample_size == (6, 6)
    assert "smaller: latents of 6x6, where" in (said := capsys.readouterr().out) and "makes 8x8" in said
    latents = check_inputs(spec(root, "of-own")).latents
    assert latents and latents.sample_size == (8, 8) and not capsys.readouterr().out
    with pytest.raises(InputError, match=r"smaller: latents of 6x6, but those of .*latents are 8x8"):
        check_inputs(spec(root, "of-two", prior={"data": str(root / "smaller")}))
