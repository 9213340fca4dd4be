"""One small study on S3 by real Ray Tune and Ray Train, whose driver is killed, then stopped, and resumed
each time: no trial runs twice, one fails alone, one is stopped early, and images are encoded once.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from command import MEDSD, assert_refused, medsd, medsd_here
from tiny import tiny_components

from medsd_ray.data.prepare import prepare
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.models.save import save_pipeline
from medsd_ray.spec.load import parse_run
from medsd_ray.storage import FolderStorage, Storage, open_storage

STEPS, EVERY = 12, 2
# asha lets the last one through at every look: the first, which it is compared with, hardly learns.
TRIED: list[dict[str, Any]] = [
    {"unet": {"method": "lora", "learning_rate": 1e-7}},
    {"unet": {"method": "full", "learning_rate": 0.9}},  # far too high: stopped at the first look
    {"text_encoder": {"method": "swap", "swap": {"model": "/no/such/encoder"}}},
    {"unet": "full", "vae": "frozen"},
]


def study(root: Path, output: str) -> dict[str, Any]:
    return {
        "name": "small",
        "output": f"{output}/study",
        "shards": f"{output}/shards",
        "run": {
            "model": str(root / "model"),
            # Many micro batches make a step slow enough to be hit in its middle.
            "training": {
                "max_steps": STEPS,
                "global_batch_size": 16,
                "micro_batch_size": 1,
                "learning_rate": 1e-3,
                "log_every": 1,
            },
            "checkpoint": {"every_steps": EVERY, "keep_last": 9},
        },
        "space": {"components": {"choice": TRIED}},
        "search": {"scheduler": "asha", "grace_steps": 2, "reduction_factor": 2},
        "metric": "fid",
        "evaluation": {
            "num_images": 8,
            "steps": 2,
            "batch_size": 8,
            "figures": ["following", "distances", "localization"],
        },
    }


@pytest.fixture
def root(tmp_path: Path, s3: str) -> Path:
    save_pipeline(tiny_components(0), tmp_path / "model")
    prepare(SourceRequest("60", "phantom", size=16), f"{s3}/shards", splits="0.6,0.2,0.2")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study(tmp_path, s3)))
    return tmp_path


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(root: Path) -> Iterator[Start]:
    """Starts `medsd tune` in a process group of its own, as a terminal would."""
    started: list[subprocess.Popen[str]] = []

    def run(*words: str) -> subprocess.Popen[str]:
        command = [MEDSD, "tune", str(root / "study.yaml"), *words]
        started.append(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                cwd=root,
            )
        )
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """-9 to the driver, and to the Ray that it started: as where its machine goes."""
    children = psutil.Process(process.pid).children(recursive=True)
    for one in (process, *children):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def train_workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += [child] if "RayTrainWorker" in " ".join(child.cmdline()) else []
    return found


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"ended early with {process.returncode}:\n{process.communicate()[0]}")
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def ended(process: subprocess.Popen[str], code: int) -> str:
    said, _ = process.communicate(timeout=600)
    assert process.returncode == code, said
    assert "Traceback" not in said, said
    return said


def states(output: Storage) -> list[str]:
    return [trial["status"] for trial in output.read_json("study.json")["trials"]]


def contents(output: Storage, *prefixes: str) -> dict[str, str]:
    """ETag of each file below the prefixes, and when it was written."""
    listed = output.client.list_objects_v2(Bucket=output.bucket, Prefix=output._key(""))["Contents"]  # type: ignore[attr-defined]
    base = len(output._key(""))  # type: ignore[attr-defined]
    return {
        o["Key"][base:]: f"{o['ETag']} {o['LastModified']}"
        for o in listed
        if o["Key"][base:].startswith(prefixes)
    }


@pytest.mark.timeout(1800)  # about two and a half minutes on two idle cores
def test_a_study_whose_driver_is_killed_and_stopped_runs_each_trial_once(root: Path, s3: str, start: Start):
    output = open_storage(f"{s3}/study")
    last = output.child("trials/0003")

    # kill -9, when the first three trials are over and the last one is half-done
    process = start()
    wait_for(lambda: last.exists(f"checkpoints/step-{EVERY:08d}/COMPLETE"), process)
    assert len(train_workers(process)) == 1, "the stopped trial's run goes on"
    kill(process)
    assert states(output) == ["done", "stopped", "failed", "running"]
    over = contents(output, "trials/0000", "trials/0001", "trials/0002", "latents", "detector")
    first = contents(last, f"checkpoints/step-{EVERY:08d}/")
    assert output.read_json("trials/0001/trial.json")["steps"] < STEPS, "stopped early"
    assert not last.exists("result.json")

    # SIGTERM, as Kubernetes sends it: the running trial leaves a checkpoint
    process = start("--resume")
    seen = len(contents(last, "checkpoints/"))
    wait_for(lambda: len(contents(last, "checkpoints/")) > seen, process)
    process.send_signal(signal.SIGTERM)
    said = ended(process, 130)
    assert "after 3 of 4 trials" in said.splitlines()[-1]
    assert states(output) == ["done", "stopped", "failed", "pending"]
    assert (
        output.read_json("study.json")["state"] == output.read_json("progress.json")["state"] == "interrupted"
    )

    said = ended(start("--auto-resume"), 0)
    assert states(output) == ["done", "stopped", "failed", "done"]
    assert contents(output, "trials/0000", "trials/0001", "trials/0002", "latents", "detector") == over, (
        "made again"
    )
    assert contents(last, f"checkpoints/step-{EVERY:08d}/") == first, "the half-done trial began anew"
    steps = [
        r["step"]
        for r in map(yaml.safe_load, last.read("metrics.jsonl").decode().splitlines())
        if "loss" in r
    ]
    assert steps == list(range(1, STEPS + 1))
    check_result(output, said)

    said = ended(start("--auto-resume"), 0)
    assert "Best: trial" in said and "--- encode" not in said
    assert_refused(medsd("tune", root / "study.yaml"), "a study was started here", "--resume")
    assert_refused(
        medsd_here("tune", root / "study.yaml", "--resume", "--set", "metric=kid"), "metric is 'kid'", "'fid'"
    )


def check_result(output: Storage, said: str) -> None:
    found = output.read_json("study.json")
    failed = found["trials"][2]
    assert "/no/such/encoder" in failed["error"] and "\n" not in failed["error"] and failed["metrics"] == {}
    assert found["trials"][0]["steps"] == STEPS and found["trials"][0]["metrics"]["fid"] > 0
    assert 0 <= found["trials"][0]["metrics"]["localization_auroc"] <= 1
    assert len(output.read_json("trials/0003/images/generated.json")["images"]) == 8
    assert {path.split("/")[1] for path in output.list("latents/")} == {
        path.split("/")[1] for path in output.list("latents/")[:1]
    }
    assert output.read_json("progress.json") | {
        "step": 4,
        "total": 4,
        "state": "finished",
    } == output.read_json("progress.json")
    rows = found["combinations"]
    assert len(rows) == 4 and rows[0]["metrics"]["fid"]["mean"] <= rows[1]["metrics"]["fid"]["mean"]
    assert found["best"]["trial"] == rows[0]["trials"][0] and rows[2]["metrics"] == {}
    best = parse_run(yaml.safe_load(output.read("best.yaml")))
    assert best.model_dump(mode="json") == found["best"]["spec"] and best.output == f"{output.url}/best"
    assert found["importance"] is None and "2 trials" in found["importance_reason"]
    assert output.list("tensorboard/0000/") and output.read("study.md").decode().strip() in said
    assert not output.list("tune/") and not output.exists("stop")


def test_bad_studies_are_refused_in_one_line(tmp_path: Path):
    save_pipeline(tiny_components(0), tmp_path / "model")
    file = tmp_path / "study.yaml"
    values = study(tmp_path, str(tmp_path))
    file.write_text(yaml.safe_dump(values))
    assert_refused(medsd_here("tune", file), "shards")
    assert_refused(
        medsd_here("tune", file, "--set", "space={components.unet: [ful]}"),
        "study.yaml",
        "components.unet=ful",
    )
    assert_refused(medsd_here("tune", file, "--resume"), "no study to resume here")
    assert_refused(medsd_here("tune", tmp_path / "none.yaml"), "STUDY.yaml")
    prepare(SourceRequest("20", "phantom", size=16), str(tmp_path / "shards"), splits="0.8,0,0.2")
    assert_refused(medsd_here("tune", file), "no validation split", "asha")
    assert not FolderStorage(tmp_path / "study").list(), "nothing is written for a study that does not start"
