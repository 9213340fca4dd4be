"""What a trial takes over from another one, how the detector and the scores are kept, and what schedulers are
told.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from specs import changed
from tiny import shifted, tiny_components, write_checkpoint
from torchvision.models import DenseNet

from medsd_ray.evaluation.networks import detector
from medsd_ray.evaluation.networks.classifier import SMALL, Classifier
from medsd_ray.runs.checkpoints import saved_steps
from medsd_ray.runs.names import STOP, checkpoint_folder
from medsd_ray.spec import plan
from medsd_ray.spec.load import parse_study
from medsd_ray.spec.run import RunSpec
from medsd_ray.spec.shown_addresses import without_local_paths
from medsd_ray.spec.study import StudySpec
from medsd_ray.storage import FolderStorage
from medsd_ray.tuning.population import adopt_checkpoints, copy_checkpoint
from medsd_ray.tuning.search import StudySearcher, scheduler
from medsd_ray.tuning.study_record import StudyRecord
from medsd_ray.tuning.trial import watched

PBT: dict[str, Any] = {
    "name": "pbt",
    "output": "/nowhere/pbt",
    "shards": "/nowhere/shards",
    "run": {"components": {"unet": "full"}, "training": {"max_steps": 100, "global_batch_size": 8}},
    "space": {"components.unet.learning_rate": {"loguniform": [1e-5, 1e-3]}},
    "search": {"searcher": "random", "num_samples": 4, "scheduler": "pbt", "interval_steps": 20},
}
ASHA = PBT | {
    "run": {"training": {"max_steps": 100, "global_batch_size": 8}},
    "space": {"components.unet": ["full", "lora", "cross_attention", "scratch"]},
    "search": {"scheduler": "asha", "grace_steps": 10, "reduction_factor": 2},
}


def run_of(study: StudySpec, rate: float, trial: str) -> RunSpec:
    run = plan.trial_run(study, {"components.unet.learning_rate": rate}, 0, trial)
    assert run
    return run


def test_a_trial_takes_over_a_checkpoint_and_makes_it_its_own(tmp_path: Path):
    study = parse_study(PBT)
    source, own = FolderStorage(tmp_path / "0000"), FolderStorage(tmp_path / "0001")
    weights = shifted(tiny_components(0), "text_encoder", 0.5)
    for store, step, run in (
        (source, 40, run_of(study, 1e-4, "0000")),
        (own, 60, run_of(study, 5e-4, "0001")),
    ):
        spec = {"spec": run.model_dump(mode="json"), "step": step}
        write_checkpoint(
            store.child(checkpoint_folder(step)),
            "medsd-small",
            {"text_encoder": "full"},
            weights,
            weights,
            **spec,
        )
    own.write("result.json", b"{}")

    copy_checkpoint(source, 40, own)
    assert saved_steps(own) == ([40], []) and not own.exists("result.json")
    wanted = run_of(study, 2e-4, "0001")
    adopt_checkpoints(own, wanted)
    store = own.child(checkpoint_folder(40))
    assert store.read_json("checkpoint.json")["spec"] == without_local_paths(wanted.model_dump(mode="json"))
    store.download_tree(tmp_path / "copy")  # checks every file against COMPLETE
    assert (tmp_path / "copy/rank-00001.safetensors").read_bytes() == source.child(
        checkpoint_folder(40)
    ).read("rank-00001.safetensors")
    assert source.child(checkpoint_folder(40)).read_json("checkpoint.json")["spec"]["name"] == "pbt-0000"

    copy_checkpoint(source, 20, own)
    assert saved_steps(own) == ([40], []), "a checkpoint that is gone by now changes nothing"


def test_the_detector_comes_back_as_it_was(tmp_path: Path):
    torch.manual_seed(0)
    about = {
        "name": "small",
        "classes": ["a", "b"],
        "size": 16,
        "mean": 100.0,
        "std": 50.0,
        "epochs": 2,
        "best_epoch": 1,
    }
    network = DenseNet(**SMALL, num_classes=2).eval()  # type: ignore[arg-type]
    made = Classifier(network=network, validation_loss=None, seconds=1.0, **about)  # type: ignore[arg-type]
    detector.write(made, FolderStorage(tmp_path))
    found = detector.read(FolderStorage(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1), dtype=np.uint8)
    assert np.array_equal(made.probabilities(pixels), found.probabilities(pixels)) and found.classes == [
        "a",
        "b",
    ]
    detector.train_once(
        "/no/such/shards", "finding", 0, FolderStorage(tmp_path), print
    )  # it is there: nothing is read


def test_a_trial_sees_that_its_study_is_asked_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("medsd_ray.tuning.trial.LOOK_EVERY_S", 0.01)
    store, stop = FolderStorage(tmp_path), threading.Event()
    with watched(store, stop):
        time.sleep(0.1)
        assert not stop.is_set()
        store.write(STOP, b"")
        assert stop.wait(5)


def ended(record: StudyRecord, status: str, losses: dict[int, float]) -> str:
    trial = record.next_trial()
    assert trial
    lines = "".join(f'{{"step": {step}, "validation_loss": {loss}}}\n' for step, loss in losses.items())
    record.output.write(f"trials/{trial['id']}/metrics.jsonl", lines.encode())
    record.ended(trial["id"], status)
    return trial["id"]


class Running:
    trial_id = "new"


@pytest.mark.parametrize(("loss", "decision"), [(0.3, "STOP"), (0.1, "CONTINUE"), (float("inf"), "STOP")])
def test_asha_remembers_trials_of_before_a_resume(tmp_path: Path, loss: float, decision: str):
    record = StudyRecord(parse_study(ASHA), FolderStorage(tmp_path), {})
    ended(record, "done", {10: 0.2, 20: 0.1})
    ended(record, "stopped", {10: 0.25})
    asha: Any = scheduler(record.study, record)
    asha.on_trial_add(None, Running())
    assert asha.on_trial_result(None, Running(), {"step": 10, "validation_loss": loss}) == decision


def test_asha_stops_no_trial_at_its_last_step(tmp_path: Path):
    study = parse_study(changed(ASHA, {"run.training.max_steps": 40}))
    record = StudyRecord(study, FolderStorage(tmp_path), {})
    ended(record, "done", {10: 0.2, 20: 0.1, 40: 0.05})
    asha: Any = scheduler(study, record)
    asha.on_trial_add(None, Running())
    for step, loss in ((10, 0.19), (20, 0.09), (40, 9.0)):
        assert asha.on_trial_result(None, Running(), {"step": step, "validation_loss": loss}) == "CONTINUE"


def test_no_trial_is_proposed_once_the_study_is_asked_to_stop(tmp_path: Path):
    record, stop = StudyRecord(parse_study(ASHA), FolderStorage(tmp_path), {}), threading.Event()
    proposals = StudySearcher(record, stop)
    assert proposals.suggest("ray's id") == {"trial": "0000"}
    stop.set()
    assert proposals.suggest("another") == StudySearcher.FINISHED
    assert len(record.trials) == 1
