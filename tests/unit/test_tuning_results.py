"""What is proposed, what the study's record remembers, and what the trials say together."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from specs import changed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medsd_ray.runs.progress import read_progress
from medsd_ray.spec.load import load_run, parse_study
from medsd_ray.spec.study import StudySpec
from medsd_ray.storage import FolderStorage
from medsd_ray.tuning import markdown, summary, tensorboard
from medsd_ray.tuning.importance import importance
from medsd_ray.tuning.proposals import propose
from medsd_ray.tuning.study_record import StudyRecord

GRID: dict[str, Any] = {
    "name": "grid",
    "output": "/nowhere/grid",
    "shards": "/nowhere/shards",
    "run": {"training": {"max_steps": 100, "global_batch_size": 8}},
    "space": {"components.unet": ["frozen", "full", "lora"], "training.learning_rate": [1e-4, 1e-3]},
    "seeds": [0, 1],
}
RANGES = {
    "space": {
        "components.unet": ["full", {"method": "lora", "lora": {"rank": 4}}],
        "training.learning_rate": {"loguniform": [1e-5, 1e-3]},
        "components.unet.learning_rate": {"uniform": [1e-5, 1e-3], "when": {"components.unet": ["lora"]}},
    },
    "search": {"searcher": "tpe", "num_samples": 25},
    "seeds": [0],
}


def study_of(**changes: Any) -> StudySpec:
    return parse_study(changed(GRID, changes))


@pytest.fixture
def study() -> StudySpec:
    return study_of()


@pytest.fixture
def record(study: StudySpec, tmp_path: Path) -> StudyRecord:
    return StudyRecord(study, FolderStorage(tmp_path), {"medsd": "test"})


def run_all(record: StudyRecord, judge) -> None:
    while (trial := record.next_trial()) is not None:
        record.started(trial["id"], {})
        record.ended(trial["id"], "done", steps=100, metrics=judge(trial))


# --- proposals


def search(study: StudySpec, judge) -> list[dict[str, Any]]:
    tried: list[dict[str, Any]] = []
    values: list[float | None] = []
    while (one := propose(study, tried, values)) is not None:
        tried.append(one)
        values.append(judge(one))
    return tried


@pytest.mark.parametrize("searcher", ["random", "tpe"])
def test_a_search_that_goes_on_proposes_what_it_would_have(searcher: str):
    study = study_of(**RANGES | {"search": {"searcher": searcher, "num_samples": 14}})
    judge = lambda one: one["training.learning_rate"]
    whole = search(study, judge)
    assert len(whole) == 14 and propose(study, whole[:12], [judge(one) for one in whole[:12]]) == whole[12]
    assert all(
        ("components.unet.learning_rate" in one) == (one["components.unet"] != "full") for one in whole
    )
    other = study.model_copy(update={"search": study.search.model_copy(update={"seed": 1})})
    assert search(other, judge) != whole


def test_tpe_finds_what_random_does_not():
    # the metric is highest at 1e-4, with the U-Net full
    judge = lambda one: (
        -abs(math.log10(one["training.learning_rate"]) + 4) + (one["components.unet"] == "full")
    )
    late = {}
    for name in ("random", "tpe"):
        study = study_of(**RANGES | {"search": {"searcher": name, "num_samples": 25}})
        late[name] = sum(judge(one) for one in search(study, judge)[12:]) / 13
    assert late["tpe"] > late["random"] + 0.2


@pytest.mark.parametrize("searcher", ["random", "tpe"])
def test_a_space_of_choices_is_never_tried_twice(searcher: str):
    study = study_of(search={"searcher": searcher, "num_samples": 50})
    found = search(study, lambda one: 0.5)
    assert len(found) == 6 and all(found.count(one) == 1 for one in found)


def test_failed_trials_are_no_obstacle_for_tpe():
    study = study_of(**RANGES)
    assert len(search(study, lambda one: None)) == 25


# --- the study's record


def test_each_combination_runs_with_each_seed_in_order(record: StudyRecord):
    run_all(record, lambda trial: {"insertion_accuracy": 0.5})
    assert len(record.trials) == record.total == 12 and record.finished
    assert [trial["seed"] for trial in record.trials] == [0, 1] * 6
    assert [len(group) for group in summary.grouped(record.trials)] == [2] * 6


def test_a_new_driver_goes_on_with_the_same_trials_and_runs_none_twice(
    study: StudySpec, record: StudyRecord, tmp_path: Path
):
    for status in ("done", "stopped", "failed", None):
        trial = record.next_trial()
        assert trial
        record.started(trial["id"], {})
        if status:
            record.ended(trial["id"], status, error="out of luck" if status == "failed" else None)
    known = [dict(trial) for trial in record.trials]

    again = StudyRecord(study, FolderStorage(tmp_path), {})  # the first driver was killed
    assert [trial["status"] for trial in again.trials] == ["done", "stopped", "failed", "pending"]
    rest = []
    while (trial := again.next_trial()) is not None:
        rest.append(trial["id"])
        again.ended(trial["id"], "done", metrics={"insertion_accuracy": 0.5})
    assert rest == [f"{number:04d}" for number in range(3, 12)]
    assert [trial["params"] for trial in again.trials[:4]] == [trial["params"] for trial in known]


def test_the_budget_ends_a_search(tmp_path: Path):
    record = StudyRecord(study_of(budget={"max_trials": 3}), FolderStorage(tmp_path), {})
    run_all(record, lambda trial: {})
    assert len(record.trials) == 3 and record.finished
    late = StudyRecord(study_of(budget={"max_hours": 1e-9}), FolderStorage(tmp_path / "late"), {})
    time.sleep(0.01)
    assert late.out_of_time


def test_what_pbt_changes_stays_within_its_range(tmp_path: Path):
    how = {"searcher": "random", "num_samples": 2, "scheduler": "pbt", "interval_steps": 10}
    space = {"training.learning_rate": {"loguniform": [1e-5, 1e-3]}}
    record = StudyRecord(
        study_of(space=space, search=how, seeds=[0], **{"run.components": {"unet": "full"}}),
        FolderStorage(tmp_path),
        {},
    )
    assert len(record.plan_all()) == 2
    record.started("0001", {"training.learning_rate": 2e-3})
    assert StudyRecord(record.study, record.output, {}).trial("0001")["params"] == {
        "training.learning_rate": 1e-3
    }


def test_progress_is_in_the_form_of_a_runs(record: StudyRecord, tmp_path: Path):
    first, second = record.next_trial(), record.next_trial()
    assert first and second
    record.ended(first["id"], "failed", error="out of luck")
    record.ended(second["id"], "done", metrics={"insertion_accuracy": 0.5})
    progress = read_progress(FolderStorage(tmp_path))
    assert (progress["step"], progress["total"], progress["state"]) == (2, 12, "running")
    assert progress["warnings"] == ["trial 0000 failed: out of luck"] and progress["lastUpdateTime"]
    record.save("done")
    assert read_progress(FolderStorage(tmp_path))["state"] == "finished"


# --- results


def judged(trial: dict[str, Any]) -> dict[str, Any]:
    """LoRA is the best but for the model as it is; seeds differ by 0.1."""
    value = {"frozen": 0.9, "full": 0.4, "lora": 0.7}[trial["params"]["components.unet"]]
    return {"insertion_accuracy": value + 0.1 * trial["seed"], "detector_accuracy": 0.717, "fid": None}


def test_combinations_come_best_first_with_intervals_over_seeds(study: StudySpec, record: StudyRecord):
    run_all(record, judged)
    rows = summary.combinations(study, record.trials)
    assert [row["params"]["components.unet"] for row in rows] == ["frozen"] * 2 + ["lora"] * 2 + ["full"] * 2
    found = rows[2]["metrics"]["insertion_accuracy"]
    # by hand: s = 0.1 / sqrt(2), t(0.975, 1) = 12.706, s / sqrt(2) = 0.05
    assert found["mean"] == pytest.approx(0.75) and found["n"] == 2
    assert found["high"] == pytest.approx(0.75 + 12.706 * 0.05, abs=1e-3)
    assert "fid" not in rows[0]["metrics"]
    assert summary.interval([0.5]) == {"mean": 0.5, "low": None, "high": None, "n": 1}
    assert summary.interval([0.7, 0.7, 0.7]) == {
        "mean": pytest.approx(0.7),
        "low": None,
        "high": None,
        "n": 3,
    }


def test_the_lowest_comes_first_where_lower_is_better(record: StudyRecord):
    run_all(record, lambda trial: {"fid": judged(trial)["insertion_accuracy"]})
    rows = summary.combinations(study_of(metric="fid"), record.trials)
    assert rows[0]["params"]["components.unet"] == "full"
    found = summary.best(study_of(metric="fid"), record.trials)
    assert found and record.trial(found["trial"])["seed"] == 0


def test_the_best_run_is_one_that_can_be_started(study: StudySpec, record: StudyRecord, tmp_path: Path):
    run_all(record, judged)
    found = record.save("done")
    assert found["best"]["spec"]["components"]["unet"]["method"] == "lora", "what is not trained is no run"
    assert record.trial(found["best"]["trial"])["seed"] == 1 and found["best"][
        "insertion_accuracy"
    ] == pytest.approx(0.8)
    (tmp_path / "best.yaml").write_text(summary.best_yaml(found["best"], "grid"))
    run = load_run(tmp_path / "best.yaml")
    assert (
        run.output == "/nowhere/grid/best"
        and run.seed == 1
        and run.model_dump(mode="json") == found["best"]["spec"]
    )


def test_stopped_and_failed_trials_are_no_result(study: StudySpec, record: StudyRecord):
    for status in ("stopped", "failed"):
        trial = record.next_trial()
        assert trial
        record.ended(trial["id"], status, metrics={"insertion_accuracy": 1.0})
    assert summary.best(study, record.trials) is None
    assert summary.combinations(study, record.trials)[0]["metrics"] == {}


def test_importance_is_of_what_made_the_difference(record: StudyRecord):
    run_all(record, judged)
    found = record.save("done")
    assert found["importance"]["components.unet"] > 0.9 > 0.1 > found["importance"]["training.learning_rate"]
    assert found["importance_reason"] is None


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        (lambda trial: {}, "0 trials have the metric"),
        (lambda trial: {"insertion_accuracy": 0.5}, "the same metric"),
    ],
)
def test_importance_that_cannot_be_computed_says_why(record: StudyRecord, metrics, reason: str):
    run_all(record, metrics)
    found = record.save("done")
    assert found["importance"] is None and reason in found["importance_reason"]


def test_a_conditional_dimension_has_no_importance_and_that_is_said():
    study = study_of(**RANGES)
    tried = search(study, lambda one: one["training.learning_rate"])
    found, reason = importance(study, tried, [one["training.learning_rate"] for one in tried])
    assert found and found["components.unet.learning_rate"] is None and found["training.learning_rate"] > 0.5
    assert reason and reason.startswith("components.unet.learning_rate: ")


def test_the_table_has_a_row_a_combination_and_no_cell_breaks_it(study: StudySpec, record: StudyRecord):
    run_all(record, judged)
    lines = markdown.table(study, record.trials).splitlines()
    assert len(lines) == 2 + 6 and len({line.count("|") for line in lines}) == 1
    assert lines[0].startswith("| unet | training.learning_rate | insertion_accuracy |")
    assert "| lora | 0.0001 | 0.75 (0.1147 to 1.385) |" in lines[4]
    text = markdown.report(study, record.save("done"))
    assert "Importance (fANOVA): components.unet" in text and "best.yaml" in text
    assert "right on 71.7% of the real held-out images" in text


def test_tensorboard_has_every_trials_settings_and_metrics(record: StudyRecord, tmp_path: Path):
    run_all(record, judged)
    tensorboard.write(record.trials, FolderStorage(tmp_path))
    tensorboard.write(
        record.trials, FolderStorage(tmp_path)
    )  # again, as after a resume: replaced, not added to
    folder = tmp_path / "tensorboard/0004"
    assert len(list(folder.iterdir())) == 1
    found = EventAccumulator(str(folder)).Reload()
    assert found.Scalars("insertion_accuracy")[0].value == pytest.approx(0.4)
    assert b"training.learning_rate" in str(found.SummaryMetadata("_hparams_/session_start_info")).encode()


def test_study_yaml_is_plain(study: StudySpec):
    from medsd_ray.spec.load import dump_study

    assert yaml.safe_load(dump_study(study))["space"]["components.unet"]["choice"] == [
        "frozen",
        "full",
        "lora",
    ]
