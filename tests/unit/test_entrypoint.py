"""The head pod's driver without a cluster: what job.yaml makes it run, what it answers, and how it ends."""

from __future__ import annotations

import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from medsd_ray.cli.main import app
from medsd_ray.driver.job import PROMPTS, PodJob, Step, load_job, steps, write_inputs
from medsd_ray.driver.main import LastLines, LogTee, VerbRunner, answers
from medsd_ray.driver.server import DriverState, serve
from medsd_ray.errors import InputError, RunError
from medsd_ray.runs.names import PROGRESS, RUN_SPEC
from medsd_ray.spec.load import load_run, load_study
from medsd_ray.storage import FolderStorage, open_storage

RUN_VALUES = {
    "name": "r",
    "model": "s3://b/base",
    "data": {"train": "s3://b/latents"},
    "components": {"unet": {"method": "full"}},
    "training": {"max_steps": 8, "global_batch_size": 12},
    "resources": {"num_workers": 2, "max_workers": 4, "max_failures": 5},
    "output": "s3://b/out/",
}
REPORT = {
    "real": "s3://b/shards",
    "prompts": ["large left effusion", "normal"],
    "numImages": 6,
    "seed": 3,
    "label": "finding",
}
STUDY = {
    "name": "s",
    "output": "s3://b/study/",
    "shards": "s3://b/shards",
    "run": {"components": {"unet": "full"}, "training": {"max_steps": 8, "global_batch_size": 12}},
    "space": {"components.text_encoder": ["frozen", "full"]},
}
EVALUATION = {
    "model": "s3://b/model",
    "base": "medsd-small",
    "output": "s3://b/eval",
    "numWorkers": 3,
    "useGpu": True,
}


def words(values: dict[str, Any], folder: Path) -> list[Step]:
    return steps(PodJob.model_validate({"attempt": 1, **values}), folder)


def test_a_run_with_a_report(tmp_path: Path):
    made = words({"run": RUN_VALUES, "report": REPORT}, tmp_path)
    assert [step.stage for step in made] == ["train", "generate", "generate", "evaluate"]
    how = [
        "--prompts", str(tmp_path / PROMPTS), "--num-images", "6", "--seed", "3", "--guidance-scale", "4.0",
        "--steps", "25",
        "--num-workers", "4", "--no-use-gpu",
    ]  # fmt: skip
    assert [step.words for step in made] == [
        ["train", str(tmp_path / RUN_SPEC), "--auto-resume"],
        ["generate", "s3://b/out", "--out", "s3://b/out/images", *how],
        ["generate", "s3://b/base", "--out", "s3://b/out/images-base", *how],
        [
            "evaluate", "--real", "s3://b/shards", "--generated", "s3://b/out/images", "--out", "s3://b/out/report",
            "--label", "finding", "--seed", "3", "--base", "s3://b/out/images-base", "--run", "s3://b/out",
        ],
    ]  # fmt: skip


def test_less_is_run_where_less_is_asked(tmp_path: Path):
    assert [step.stage for step in words({"run": RUN_VALUES}, tmp_path)] == ["train"]
    made = words({"run": RUN_VALUES, "report": REPORT | {"base": False}}, tmp_path)
    assert [step.stage for step in made] == ["train", "generate", "evaluate"]
    assert "--base" not in made[-1].words
    gpu = RUN_VALUES | {"resources": {"num_workers": 1, "use_gpu": True}}
    generate = words({"run": gpu, "report": REPORT}, tmp_path)[1].words
    assert generate[-3:] == ["--num-workers", "2", "--use-gpu"]  # never in the head pod itself


def test_a_task_run_is_evaluated_itself(tmp_path: Path):
    network = {"library": "monai", "name": "UNet"}
    run = {name: RUN_VALUES[name] for name in ("name", "data", "training", "output")}
    run |= {"segmenter": {"mask": "lungs", "network": network}}
    report = {"real": "s3://b/shards", "seed": 3}
    made = words({"run": run, "report": report}, tmp_path)
    evaluate = ["--real", "s3://b/shards", "--out", "s3://b/out/report", "--seed", "3"]
    assert [step.words for step in made] == [
        ["train", str(tmp_path / RUN_SPEC), "--auto-resume"], ["evaluate", "s3://b/out", *evaluate]
    ]  # fmt: skip
    made = words({"evaluation": EVALUATION | {"base": None}, "report": report}, tmp_path)
    assert [step.words[:2] for step in made] == [["evaluate", "s3://b/model"]]


def test_an_evaluation(tmp_path: Path):
    made = words({"evaluation": EVALUATION, "report": REPORT}, tmp_path)
    assert [step.words[:4] for step in made] == [
        ["generate", "s3://b/model", "--out", "s3://b/eval/images"],
        ["generate", "medsd-small", "--out", "s3://b/eval/images-base"],
        ["evaluate", "--real", "s3://b/shards", "--generated"],
    ]
    assert made[0].words[-3:] == ["--num-workers", "3", "--use-gpu"]
    assert "--run" not in made[-1].words
    assert len(words({"evaluation": EVALUATION | {"base": None}, "report": REPORT}, tmp_path)) == 2


def test_a_study(tmp_path: Path):
    assert words({"study": STUDY}, tmp_path) == [
        Step("search", ["tune", str(tmp_path / "study.yaml"), "--auto-resume"])
    ]
    job = PodJob.model_validate({"attempt": 1, "study": STUDY})
    write_inputs(job, tmp_path)
    assert load_study(tmp_path / "study.yaml") == job.study and job.output == "s3://b/study"


def test_the_verbs_know_these_words(tmp_path: Path):
    job = PodJob.model_validate({"attempt": 1, "run": RUN_VALUES, "report": REPORT})
    write_inputs(job, tmp_path)
    commands: Any = typer.main.get_command(app)
    others = [
        *words({"study": STUDY}, tmp_path),
        *words({"evaluation": EVALUATION, "report": REPORT}, tmp_path),
    ]
    for step in [*steps(job, tmp_path), *others]:
        commands.commands[step.words[0]].make_context(
            step.words[0], list(step.words[1:])
        )  # raises for an unknown one
    assert load_run(tmp_path / RUN_SPEC) == job.run
    assert (tmp_path / PROMPTS).read_text() == "large left effusion\nnormal\n"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "No such file"),
        ("a: [", "not YAML"),
        ("", "job.yaml"),
        (json.dumps({"run": RUN_VALUES}), "attempt"),
        (json.dumps({"attempt": 1}), "one of run, study and evaluation"),
        (
            json.dumps({"attempt": 1, "run": RUN_VALUES, "evaluation": EVALUATION}),
            "one of run, study and evaluation",
        ),
        (json.dumps({"attempt": 1, "evaluation": EVALUATION}), "needs a report"),
        (
            json.dumps({"attempt": 1, "run": RUN_VALUES, "report": REPORT | {"prompts": [" "]}}),
            "report.prompts",
        ),
        (json.dumps({"attempt": 1, "run": RUN_VALUES | {"learning": 1}}), "run.learning"),
        (json.dumps({"attempt": 1, "run": RUN_VALUES | {"seed": -1}}), "run.seed"),
    ],
)
def test_a_bad_job_is_one_line(tmp_path: Path, text: str | None, named: str):
    path = tmp_path / "job.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=named) as caught:
        load_job(path)
    assert "\n" not in str(caught.value)


def test_a_bad_job_ends_with_2(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({"attempt": 1}))
    result = subprocess.run(
        [sys.executable, "-m", "medsd_ray.driver.main", str(path)], capture_output=True, text=True
    )
    assert result.returncode == 2 and result.stderr.startswith("medsd: ") and result.stderr.count("\n") == 1


def test_it_is_light():
    code = "import medsd_ray.driver.main, sys; print({'torch', 'ray', 'diffusers'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "set()\n"
    )


@pytest.fixture
def tee(tmp_path: Path) -> LogTee:
    return LogTee(tmp_path / "driver.log")


def test_a_verbs_end_and_its_own_word(tee: LogTee, tmp_path: Path):
    runner = VerbRunner(tee)
    assert runner.run(Step("train", ["--help"])) == (0, None)
    code, error = runner.run(Step("train", ["train", str(tmp_path / "absent.yaml")]))
    assert code == 2 and error is not None and error.startswith("medsd: ") and "absent.yaml" in error
    log = (tmp_path / "driver.log").read_text()
    assert "$ medsd --help\n" in log and log.endswith(error + "\n")


def test_a_stop_reaches_the_verb_once_and_starts_no_other(tee: LogTee, tmp_path: Path):
    runner = VerbRunner(tee)
    shards = tmp_path / "shards"
    long = ["prepare", "20000", str(shards), "--kind", "phantom", "--size", "64", "--shard-size", "16KiB"]
    ends: list[tuple[int, str | None]] = []
    thread = threading.Thread(target=lambda: ends.append(runner.run(Step("generate", long))))
    thread.start()
    end = time.monotonic() + 300
    while not list(shards.glob("*/*.tar")):
        assert time.monotonic() < end
        time.sleep(0.1)
    runner.stop(signal.SIGINT)
    runner.stop(signal.SIGTERM)
    thread.join(60)
    assert ends == [(130, "medsd: interrupted")]
    assert runner.run(Step("evaluate", ["--help"])) == (130, None)


def test_a_killed_verb_is_told_in_words(tee: LogTee):
    runner = VerbRunner(tee)
    thread = threading.Thread(
        target=lambda: ends.append(runner.run(Step("generate", ["prepare", "1", "x", "--kind", "phantom"])))
    )
    ends: list[tuple[int, str | None]] = []
    thread.start()
    while runner._child is None:
        time.sleep(0.01)
    runner.stop(signal.SIGKILL)
    thread.join(60)
    code, error = ends[0]
    assert code == 137 and error is not None and "SIGKILL" in error and "memory" in error


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port: int, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}{path}", body), timeout=10
        ) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_warnings_of_a_verb_reach_the_status_though_the_store_takes_no_writes(tee: LogTee):
    state = DriverState("train", stop=lambda: None)
    output = b"step 1/2\nwarning: the disk is full\nno warning: here\nwarning: the disk is full\n"
    lines = LastLines(state.warn)
    lines.read(io.BytesIO(output), tee)
    assert state.answer()["warnings"] == ["the disk is full"]
    state._progress = {"warnings": ["from the store", "the disk is full"]}
    assert state.answer()["warnings"] == ["from the store", "the disk is full"]


def test_polls(tmp_path: Path):
    stops: list[None] = []
    state = DriverState("train", stop=lambda: stops.append(None))
    port = free_port()
    serve(state, port)
    assert ask(port, "/healthz") == (200, {"ok": True})
    code, first = ask(port, "/poll", b"{}")
    assert code == 200 and first["stage"] == "train" and first["step"] is None and first["warnings"] == []

    output = FolderStorage(tmp_path)
    output.write_json(
        PROGRESS, {"step": 7, "total": 8, "state": "running", "loss": 0.5, "warnings": ["w"], "other": 1}
    )
    output.write("checkpoints/step-00000004/COMPLETE", b"{}")
    output.write("checkpoints/step-00000006/rank-00000.safetensors", b"")
    state.read(output)
    event = {"time": "2024-01-01T00:00:00Z", "reason": "Killing", "message": "m", "object": "Pod/p"}
    for stop in (False, True):
        code, said = ask(port, "/poll", json.dumps({"events": [event], "stop": stop}).encode())
    assert said == {
        "stage": "train", "exit_code": None, "error": None, "state": "running", "step": 7, "total": 8,
        "loss": 0.5,
        "best": None, "images_per_second": None, "eta_seconds": None, "lastUpdateTime": None,
        "warnings": ["w"],
        "checkpoint_step": 4,
    }  # fmt: skip
    assert state.events == [event] and len(stops) == 1 and not state.end_polled.is_set()

    state.stage, state.exit_code = "done", 0
    assert ask(port, "/poll", b"{}")[1]["exit_code"] == 0
    assert state.end_polled.wait(5)
    for path, body in (("/poll", b"["), ("/poll", b"[]"), ("/poll", b'{"events": 1}')):
        assert ask(port, path, body)[0] == 400
    assert ask(port, "/other")[0] == 404 and ask(port, "/other", b"{}")[0] == 404
    with pytest.raises(RunError, match=str(port)):
        serve(state, port)


def test_a_store_that_is_away_is_told_from_one_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert answers(FolderStorage(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    assert not answers(open_storage("s3://bucket/prefix"))
