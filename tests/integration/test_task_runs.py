"""Classifiers and segmenters through the same loop: exact on any number of workers, and when resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from plain_workers import Pool
from run_records import half_of, losses, records
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_tasks import TASKS

from medsd_ray.data.prepare import prepare
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.errors import InputError
from medsd_ray.models.resolve import resolve
from medsd_ray.runs.checkpoints import describe_checkpoint
from medsd_ray.spec.load import parse_run
from medsd_ray.spec.run import RunSpec
from medsd_ray.storage import FolderStorage
from medsd_ray.training.checks import check_inputs

STEPS, HALF = 6, 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tasks")
    prepare(SourceRequest("60", "phantom", size=32), str(root / "shards"), splits="0.7,0.3,0")
    return root


def spec(root: Path, task: str, output: str, workers: int = 1, **training: Any) -> RunSpec:
    settings = training.pop("settings", {})
    return parse_run(
        {
            "name": "test",
            "data": {"train": str(root / "shards")},
            task: TASKS[task] | settings,
            "training": {
                "max_steps": STEPS,
                "global_batch_size": 8,
                "learning_rate": 1e-3,
                "log_every": 1,
                "validate_every": HALF,
                **training,
            },
            "checkpoint": {"every_steps": HALF},
            "resources": {"num_workers": workers},
            "output": str(root / output),
        }
    )


@pytest.fixture(scope="module")
def whole_runs(root: Path, one_worker: Pool, two_workers: Pool) -> None:
    for task in TASKS:
        one_worker.train(spec(root, task, f"{task}-one"))
        two_workers.train(spec(root, task, f"{task}-two", 2, micro_batch_size=2, zero_stage=2))


@pytest.mark.parametrize("task", TASKS)
def test_workers_micro_batches_and_stage_do_not_change_the_losses(root: Path, whole_runs: None, task: str):
    one, two = losses(root, f"{task}-one"), losses(root, f"{task}-two")
    assert len(one) == STEPS and one[-1] != one[0]
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


@pytest.mark.parametrize("task", TASKS)
def test_validation_measures_the_same_on_any_number_of_workers(root: Path, whole_runs: None, task: str):
    names = {"classifier": {"validation_accuracy", "validation_auroc"}, "segmenter": {"validation_dice"}}[
        task
    ]
    one, two = (
        {r["step"]: {name: r[name] for name in names} for r in records(root, run) if "validation_loss" in r}
        for run in (f"{task}-one", f"{task}-two")
    )
    assert list(one) == [HALF, STEPS] and all(one[step] == pytest.approx(two[step], abs=1e-4) for step in one)
    output = FolderStorage(root / f"{task}-one")
    for file in ("result.json", "progress.json"):
        assert output.read_json(file).items() >= one[STEPS].items()
    events = EventAccumulator(str(root / f"{task}-one/tensorboard")).Reload()
    for name in names:
        assert [event.step for event in events.Scalars(name)] == list(one)


@pytest.mark.parametrize("task", TASKS)
def test_resume_is_exact(root: Path, whole_runs: None, one_worker: Pool, two_workers: Pool, task: str):
    half_of(root, f"{task}-one", f"{task}-same", STEPS)
    one_worker.train(spec(root, task, f"{task}-same"))
    assert torch.equal(losses(root, f"{task}-same"), losses(root, f"{task}-one"))
    half_of(root, f"{task}-one", f"{task}-other", STEPS)
    two_workers.train(spec(root, task, f"{task}-other", 2, zero_stage=3))
    torch.testing.assert_close(losses(root, f"{task}-other"), losses(root, f"{task}-one"), atol=1e-5, rtol=0)


@pytest.mark.parametrize("task", TASKS)
def test_a_checkpoint_says_what_was_learnt(root: Path, whole_runs: None, task: str):
    output = FolderStorage(root / f"{task}-one")
    description = describe_checkpoint(output.child(f"checkpoints/step-{STEPS:08d}"))
    assert description["components"] == {task: "full"} and description["model"] == "random"
    assert description["classes"] == (["large", "none", "small"] if task == "classifier" else ["effusion"])
    assert all(name.startswith(f"{task}.") for name in description["fragments"])
    result = output.read_json("result.json")
    assert result["compute_dtype"] == {task: "float32"} and result["validation_loss"] > 0


def test_a_task_run_is_no_model_that_makes_images(root: Path, whole_runs: None):
    with pytest.raises(InputError, match="a segmenter, which makes no images"):
        resolve(str(root / "segmenter-one"))


def test_half_precision_is_in_effect(root: Path, whole_runs: None, one_worker: Pool):
    one_worker.train(spec(root, "segmenter", "half", precision="bf16"))
    result = FolderStorage(root / "half").read_json("result.json")
    assert result["compute_dtype"] == {"segmenter": "bfloat16"}
    whole = losses(root, "segmenter-one")
    assert not torch.equal(losses(root, "half"), whole)
    torch.testing.assert_close(losses(root, "half"), whole, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("classifier", {"loss": "focal"}),
        ("classifier", {"class_weights": "none"}),
        ("classifier", {"label_smoothing": 0.1}),
        ("classifier", {"label": "heart"}),
        ("classifier", {"augmentation": {"rotation": 0.0}}),
        ("classifier", {"learning_rate": 1e-2}),
        ("segmenter", {"loss": "dice"}),
    ],
    ids=str,
)
def test_each_setting_changes_the_run(
    root: Path, whole_runs: None, one_worker: Pool, task: str, settings: dict
):
    output = f"{task}-{'-'.join(settings)}"
    one_worker.train(spec(root, task, output, settings=settings))
    changed, before = losses(root, output), losses(root, f"{task}-one")
    assert not torch.allclose(changed[1:], before[1:], atol=1e-5)


def test_samples_are_drawn(root: Path, two_workers: Pool):
    for task in TASKS:
        two_workers.train(spec(root, task, f"{task}-drawn", 2, sample_every=STEPS, zero_stage=3))
        folder = root / f"{task}-drawn/samples" / f"step-{STEPS:08d}"
        assert len(list(folder.glob("*.png"))) == 4
    assert len(records(root, "classifier-drawn")) > STEPS


def test_a_network_without_gradient_checkpointing_says_so(root: Path, one_worker: Pool):
    with pytest.raises(InputError, match="gradient_checkpointing: the segmenter's network"):
        one_worker.train(spec(root, "segmenter", "recomputed", gradient_checkpointing=True))


def test_what_the_shards_lack_is_refused(root: Path):
    with pytest.raises(InputError, match="no mask 'kidney'"):
        check_inputs(spec(root, "segmenter", "refused", settings={"mask": "kidney"}))
