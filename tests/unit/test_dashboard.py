"""The dashboard's plain data: what it makes of a study's and a run's files, good and bad."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from studies import EVIL, PROMPTS, make_trial, summarise, write_json, write_run, write_study

from medsd_ray.dashboard.cached_files import CachedFiles, inside, parse_finite_json
from medsd_ray.dashboard.curve_store import CurveStore
from medsd_ray.dashboard.curves import LIMIT, downsample, series
from medsd_ray.dashboard.discovery import find_studies_and_runs
from medsd_ray.dashboard.run import run_view
from medsd_ray.dashboard.spec_view import as_run_yaml, difference, label, read_spec
from medsd_ray.dashboard.study import compare, parameters, study_view, trial_images, trial_spec
from medsd_ray.runs.progress import read_records
from medsd_ray.spec.load import parse_run
from medsd_ray.storage import FolderStorage

DRAWING = np.zeros((4, 4), np.uint8)


@pytest.fixture
def files(tmp_path: Path) -> CachedFiles:
    return CachedFiles(FolderStorage(tmp_path))


class Counted(FolderStorage):
    """Counts reads by key."""

    def __init__(self, root: Path):
        super().__init__(root)
        self.reads: list[str] = []

    def read(self, key: str, most: int | None = None) -> bytes:
        self.reads.append(key)
        return super().read(key, most)


@pytest.mark.parametrize("of", [1, 2, LIMIT - 1, LIMIT, LIMIT + 1, 1000, 12_345])
def test_a_curve_is_short_and_keeps_its_ends_and_spikes(of: int):
    steps = list(range(0, 10 * of, 10))
    values = [math.sin(step / 500) for step in steps]
    if of > 500:
        values[of // 3], values[of // 2] = 99.0, -99.0
    found = downsample(steps, values)
    assert found["of"] == of and len(found["steps"]) == len(found["values"]) <= LIMIT
    assert found["steps"] == sorted(set(found["steps"]))
    assert (found["steps"][0], found["steps"][-1]) == (steps[0], steps[-1])
    assert (max(found["values"]), min(found["values"])) == pytest.approx((max(values), min(values)), rel=1e-4)
    if of <= LIMIT:
        assert found["steps"] == steps


def test_records_survive_broken_lines_and_numbers_that_are_none():
    lines = [
        '{"step": 1, "loss": 0.5, "learning_rates": {"unet": 1e-4}}',
        "{broken",
        '{"step": 2, "loss": NaN, "note": "text", "flag": true}',
        "[1]",
        '{"loss": 3}',
        "",
        '{"step": 3, "loss": 0.25, "validation_loss": Infinity}',
    ]
    records = read_records("\n".join(lines).encode())
    assert [record["step"] for record in records] == [1, 2, 3]
    curves = series(records)
    assert set(curves) == {"loss", "learning_rate/unet"}
    assert curves["loss"] == {"steps": [1, 3], "values": [0.5, 0.25], "of": 2}
    assert set(series(records, ("validation_loss",))) == set()


def test_json_without_numbers_that_json_lacks():
    assert parse_finite_json(b'{"a": [NaN, 1.5, -Infinity, "NaN"], "b": {"c": Infinity}}') == {
        "a": [None, 1.5, None, "NaN"],
        "b": {"c": None},
    }


def test_a_file_is_read_once_for_each_of_its_states(tmp_path: Path):
    store = Counted(tmp_path)
    files = CachedFiles(store)
    write_study(tmp_path, with_images=False)
    study_view(files, "")
    read = len(store.reads)
    study_view(files, "")
    assert len(store.reads) == read
    write_json(tmp_path / "study.json", summarise([make_trial(0)], "done"))
    view = study_view(files, "")
    assert (
        view
        and [trial["id"] for trial in view["trials"]] == ["0000"]
        and store.reads[read:] == ["study.json"]
    )


def test_studies_and_runs_are_found_and_nothing_below_them(tmp_path: Path, files: CachedFiles):
    write_study(tmp_path / "a/study", with_images=False)
    write_run(tmp_path / "runs/one", make_trial(0))
    write_run(tmp_path / "runs/.hidden", make_trial(0))
    (tmp_path / "shards/train").mkdir(parents=True)
    write_json(tmp_path / "starting/progress.json", {"state": "running"})
    (tmp_path / "starting/study.yaml").write_text("name: soon\nmetric: fid\nmode: min\n")
    for name in ("study.yaml", "run.yaml", "runs/run.yaml"):  # a user's own, beside the outputs
        (tmp_path / name).write_text("name: mine\n")
    (tmp_path / "runs/elsewhere").symlink_to("/usr", target_is_directory=True)
    found = find_studies_and_runs(files)
    assert sorted(found.studies) == ["a/study", "starting"] and sorted(found.runs) == ["runs/one"]
    assert list(find_studies_and_runs(CachedFiles(FolderStorage(tmp_path / "a/study"))).studies) == [""]
    soon = study_view(files, "starting")
    assert soon and (soon["name"], soon["metric"], soon["state"], soon["trials"]) == (
        "soon",
        "fid",
        "starting",
        [],
    )


def test_a_study_in_short(tmp_path: Path, files: CachedFiles):
    write_study(tmp_path / "s", 24, with_images=False)
    view = study_view(files, "s")
    assert view
    assert (view["name"], view["state"], view["metric"], view["mode"]) == (
        "chambon2022",
        "running",
        "insertion_accuracy",
        "max",
    )
    assert view["counts"]["failed"] == 1 and sum(view["counts"].values()) == view["trials"].__len__() == 24
    running = next(trial for trial in view["trials"] if trial["status"] == "running")
    assert (running["live"]["step"], running["live"]["total"]) == (300, 600)
    kinds = [(one["name"], one["kind"], one["log"]) for one in view["parameters"]]
    assert kinds == [
        ("components.vae", "category", False),
        ("components.text_encoder", "category", False),
        ("components.unet", "category", False),
        ("components.unet.learning_rate", "number", True),
    ]
    assert view["metrics"] == ["insertion_accuracy", "fid", "validation_loss"]
    assert view["combinations"][0]["metrics"]["insertion_accuracy"].keys() == {"mean", "low", "high", "n"}
    assert [run["at"] for run in view["stages"]] == ["s/vae/decoder"]
    assert study_view(files, "s/trials") is None and study_view(files, "nowhere") is None


def test_a_studys_warnings_and_a_trial_that_trains_nothing(tmp_path: Path, files: CachedFiles):
    write_json(tmp_path / "study.json", summarise([make_trial(0) | {"run": None}, make_trial(1)], "done"))
    write_json(tmp_path / "progress.json", {"warnings": ["images are not judged: no labels", 3]})
    view = study_view(files, "")
    assert view and view["warnings"] == ["images are not judged: no labels"]
    assert [trial["trains"] for trial in view["trials"]] == [False, True]


def test_a_study_before_its_first_summary_is_its_trials(tmp_path: Path, files: CachedFiles):
    write_study(tmp_path, 8, with_images=False)
    write_json(tmp_path / "progress.json", {"state": "running"})
    (tmp_path / "study.json").unlink()
    view = study_view(files, "")
    assert view and [trial["id"] for trial in view["trials"]] == [
        f"{index:04d}" for index in range(7)
    ]  # the last is pending


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '"x"',
        '{"trials": 3, "best": [], "combinations": {"a": 1}, "importance": "x"}',
        '{"trials": [1, {"id": "../x"}]}',
    ],
)
def test_a_broken_study_is_an_empty_one(tmp_path: Path, files: CachedFiles, text: str):
    (tmp_path / "study.json").write_text(text)
    view = study_view(files, "")
    assert view and view["trials"] == [] and view["combinations"] == [] and view["importance"] is None


def test_parameters_of_any_kind():
    values = [1, 10, None], [1, 2, 3], ["a", 1, 2], [0, 0.5, 1e4], [True, False, True]
    trials = [{"params": {str(n): some[i] for n, some in enumerate(values)}} for i in range(3)]
    found = {one["name"]: (one["kind"], one["log"]) for one in parameters(trials)}
    number, words = ("number", False), ("category", False)
    assert found == {"0": ("number", True), "1": number, "2": words, "3": number, "4": words}


def test_values_in_short():
    assert label("lora") == "lora" and label(1e-4) == 1e-4 and label(None) is None
    assert label({"method": "full"}) == "full"
    assert label(
        {"method": "textual_inversion", "tokens": [{"token": "<effusion>", "initializer": "x"}]}
    ) == ("textual_inversion <effusion>")
    assert label({"method": "swap", "swap": {"model": "org/radbert"}, "lora": None}) == "swap org/radbert"
    assert label({"method": "lora", "lora": {"rank": 4}}) == 'lora lora={"rank": 4}'
    assert label([1, "a"]) == '[1, "a"]' and len(label(["x" * 200])) == 80


def test_the_difference_of_two_specs():
    a = {"name": "a", "unet": {"method": "full", "rate": 0.1}, "prompts": ["x"], "gone": None}
    b = {"name": "a", "unet": {"method": "lora", "rate": 0.1}, "prompts": ["x", "y"], "new": {}}
    assert difference(a, b) == [
        {"field": "gone", "a": "null", "b": None},
        {"field": "new", "a": None, "b": "{}"},
        {"field": "prompts", "a": '["x"]', "b": '["x", "y"]'},
        {"field": "unet.method", "a": "full", "b": "lora"},
    ]
    assert difference(a, a) == []


def test_a_trials_spec_is_a_run_to_start_again(tmp_path: Path, files: CachedFiles):
    write_study(tmp_path, with_images=False)
    spec = trial_spec(files, "", "0001")
    assert spec and parse_run(yaml.safe_load(spec["yaml"])).output == spec["values"]["output"] + "-again"
    assert as_run_yaml({"output": "s3://b/run/"}) == "output: s3://b/run-again\n"
    assert EVIL in yaml.safe_load(spec["yaml"])["training"]["sample_prompts"][2]
    assert trial_spec(files, "", "0011") is None  # pending
    fields = [one["field"] for one in compare(files, "", "0000", "0001")["difference"]]
    assert fields == ["name", "output", "seed"]
    assert compare(files, "", "0000", "0011") == {"a": "0000", "b": "0011", "difference": None}


def test_images_of_trials_are_rows_of_one_prompt_and_seed(tmp_path: Path, files: CachedFiles):
    write_study(tmp_path)
    found = trial_images(files, "", ["0000", "0010", "0001"])
    assert [row["prompt"] for row in found["rows"]] == list(PROMPTS)
    assert [row["name"] for row in found["rows"]] == [f"images/{index:05d}.png" for index in range(3)]
    for row in found["rows"]:
        assert row["seed"] == "0" and row["stamps"]["0010"] is None  # it runs, and has no images yet
        assert row["stamps"]["0000"] and row["stamps"]["0001"]
    (tmp_path / "trials/0000/images/00000.png").write_bytes(b"no PNG")
    assert trial_images(files, "", ["0000"])["rows"][0]["prompt"] is None


def test_a_run(tmp_path: Path, files: CachedFiles):
    write_run(tmp_path / "run", make_trial(0), points=1000, pictures=[[DRAWING]] * 3)
    write_json(tmp_path / "run/checkpoints/step-00000700/half", {})
    view = run_view(files, "run")
    assert view
    assert (view["state"], view["step"], view["total"], view["images_per_second"]) == (
        "finished",
        600,
        600,
        96.4,
    )
    assert view["checkpoints"] == {
        "complete": [200, 400, 600],
        "incomplete": [700],
        "best": None,
        "why": None,
    }
    names = {"loss", "validation_loss", "grad_norm", "images_per_second", "eta_seconds"}
    assert set(view["curves"]) == names | {"learning_rate/unet", "learning_rate/text_encoder"}
    assert view["curves"]["loss"]["of"] == 1000 and len(view["curves"]["loss"]["steps"]) <= LIMIT
    assert [(one["step"], len(one["images"])) for one in view["samples"]] == [(200, 3), (400, 3), (600, 3)]
    assert view["prompts"] == list(PROMPTS)
    assert run_view(files, "") is None
    (tmp_path / "run/run.yaml").write_text("a: [")
    view = run_view(files, "run")
    assert view and view["yaml"] is None and view["prompts"] == []


def test_curves_come_once_and_then_what_is_new(tmp_path: Path):
    store = Counted(tmp_path)
    files = CachedFiles(store)
    write_study(tmp_path, with_images=False)
    view = study_view(files, "")
    assert view
    book = CurveStore(files, "")
    first = book.since(view["trials"], "validation_loss", "")
    assert first["whole"] and first["ready"] == first["wanted"] == len(first["curves"]) == 11
    read = len(store.reads)
    again = book.since(view["trials"], "validation_loss", first["version"])
    assert again["curves"] == {} and again["version"] == first["version"] and len(store.reads) == read

    with (tmp_path / "trials/0010/metrics.jsonl").open("a") as file:  # the one that runs
        file.write(json.dumps({"step": 301, "validation_loss": 0.1}) + "\n")
    more = book.since(view["trials"], "validation_loss", first["version"])
    assert (
        list(more["curves"]) == ["0010"] and more["curves"]["0010"]["steps"][-1] == 301 and not more["whole"]
    )
    assert book.since(view["trials"], "validation_loss", "other.5")["whole"]  # of a server before this one
    assert set(book.since(view["trials"], "loss", "")["curves"]) == set(first["curves"])


def test_many_curves_have_fewer_points_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trials = write_study(tmp_path, 8, with_images=False)
    for trial in trials[:-1]:  # the last has not begun
        write_run(tmp_path / "trials" / trial["id"], trial, points=1000)
    view = study_view(CachedFiles(FolderStorage(tmp_path)), "")
    assert view
    for budget, limit in ((10**6, LIMIT), (7 * 100, 100), (1, 40)):
        monkeypatch.setattr("medsd_ray.dashboard.curve_store.MOST_POINTS_IN_ALL", budget)
        found = CurveStore(CachedFiles(FolderStorage(tmp_path)), "").since(view["trials"], "loss", "")
        assert found["limit"] == limit
        assert all(
            limit - 10 < len(curve["steps"]) <= limit and curve["of"] == 1000
            for curve in found["curves"].values()
        )


def test_a_slow_storage_gives_some_curves_now_and_the_rest_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("medsd_ray.dashboard.curve_store.READ_LIMIT_S", -1.0)
    files = CachedFiles(FolderStorage(tmp_path))
    write_study(tmp_path, 40, with_images=False)
    view = study_view(files, "")
    assert view
    book = CurveStore(files, "")
    assert book.since(view["trials"], "loss", "")["ready"] == 0
    monkeypatch.setattr("medsd_ray.dashboard.curve_store.READ_LIMIT_S", 60.0)
    assert book.since(view["trials"], "loss", "")["ready"] == 39


@pytest.mark.parametrize(
    ("path", "good"),
    [
        ("", True), ("a", True), ("a/b c/ä", True), ("..", False), ("a/../b", False), ("/etc", False),
        ("a//b", False),
        (".", False), ("a\\b", False), ("a/\x00", False), ("a/", False), ("...", True),
    ],
)  # fmt: skip
def test_paths_from_outside(path: str, good: bool):
    assert inside(path) is good


def test_a_spec_that_would_never_end_is_none():
    lists = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else '1'}]" for i in range(12)]
    assert read_spec("\n".join(lists).encode()) is None
    assert read_spec(b"[" * 50_000) is None and read_spec(b"a: 1\na: 2") is None
    assert read_spec(b"a: 1e-4") == {"a": 1e-4}
