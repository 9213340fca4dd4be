"""The head pod's driver as Kubernetes runs it: on a Ray cluster, with its data and output on S3, polled over
HTTP.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray_nodes import Nodes, ray_nodes
from small_latents import write_latents
from tiny import tiny_components

from medsd_ray.models.save import save_pipeline
from medsd_ray.runs.checkpoints import saved_steps
from medsd_ray.runs.names import checkpoint_folder
from medsd_ray.storage import open_storage

STEPS = 120
EVENT = {
    "time": "2024-01-01T00:00:00Z",
    "reason": "Pulled",
    "message": "the image was there",
    "object": "Pod/head",
}


class Attempt:
    """The entrypoint of one attempt, and what it answered to every poll."""

    def __init__(self, folder: Path, nodes: Nodes, number: int, run: dict[str, Any]):
        path = folder / f"job-{number}.yaml"
        path.write_text(yaml.safe_dump({"attempt": number, "run": run}))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.answers: list[dict[str, Any]] = []
        self.log = folder / f"attempt-{number}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "medsd_ray.driver.main", str(path)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | nodes.environment | {"MEDSD_PORT": str(self.port)},
            )

    def poll(self, stop: bool = False) -> None:
        body = json.dumps({"events": [EVENT], "stop": stop}).encode()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/poll", body, timeout=5) as answer:
                self.answers.append(json.loads(answer.read()))
        except OSError:
            if self.process.poll() is not None or self.answers:
                raise

    def poll_until(self, condition: Callable[[dict[str, Any]], object], stop: bool = False) -> dict[str, Any]:
        end = time.monotonic() + 300
        while not (self.answers and condition(self.answers[-1])):
            assert time.monotonic() < end and self.process.poll() is None, self.log.read_text()[-5000:]
            time.sleep(0.5)
            self.poll(stop)
        return self.answers[-1]

    def end(self) -> int:
        return self.process.wait(60)

    def kill(self) -> None:
        if self.process.poll() is None:
            for process in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
                process.kill()


def values(tmp_path: Path, s3: str) -> dict[str, Any]:
    components = tiny_components(0)
    save_pipeline(components, tmp_path / "model")
    write_latents(f"{s3}/latents", components, str(tmp_path / "model"), samples=48, embeddings=True)
    return {
        "name": "attempts",
        "model": str(tmp_path / "model"),
        "data": {"train": f"{s3}/latents", "cache": str(tmp_path / "cache")},
        "components": {"unet": "full"},
        # Many micro batches make a step slow enough to be hit in its middle.
        "training": {
            "max_steps": STEPS,
            "global_batch_size": 16,
            "micro_batch_size": 1,
            "zero_stage": 2,
            "log_every": 1,
        },
        "checkpoint": {"every_steps": 10},
        "resources": {"num_workers": 1, "max_workers": 2, "max_failures": 1},
        "output": f"{s3}/run",
    }


@pytest.mark.timeout(1200)
def test_an_attempt_is_stopped_and_the_next_one_outlives_a_node(tmp_path: Path, s3: str):
    run, output = values(tmp_path, s3), open_storage(f"{s3}/run")
    attempts: list[Attempt] = []
    with ray_nodes() as nodes:
        nodes.add(cpus=1)  # room for one worker: an elastic run starts with it
        try:
            attempts.append(first := Attempt(tmp_path, nodes, 1, run))
            first.poll_until(lambda a: a["checkpoint_step"] is not None)
            assert first.answers[0]["stage"] == "train" and first.answers[0]["step"] is None
            nodes.add(cpus=1)
            done = first.poll_until(lambda a: a["stage"] == "done", stop=True)
            assert first.end() == 130, first.log.read_text()
            assert done["exit_code"] == 130 and done["state"] == "interrupted"
            assert done["error"].startswith("medsd: interrupted: after step")
            stopped = done["step"]
            assert 0 < stopped < STEPS and done["checkpoint_step"] == stopped == saved_steps(output)[0][-1]
            assert not output.exists("result.json")

            attempts.append(second := Attempt(tmp_path, nodes, 2, run))
            saved = second.poll_until(lambda a: (a["checkpoint_step"] or 0) > stopped)["checkpoint_step"]
            assert output.read_json(f"{checkpoint_folder(saved)}/checkpoint.json")["world_size"] == 2
            shown = [a["step"] for a in second.answers if a["step"] is not None]
            assert shown == sorted(shown) and shown[0] >= stopped
            assert all(
                a["state"] != "interrupted" for a in second.answers
            )  # the first attempt's end is not this one's
            assert any(a["loss"] and a["images_per_second"] and a["lastUpdateTime"] for a in second.answers)
            nodes.kill(-1)  # it goes on with the worker that is left
            lost = second.poll_until(lambda a: a["warnings"])
            assert "a worker was lost" in lost["warnings"][0] and "restart 1 of 1" in lost["warnings"][0]
            done = second.poll_until(lambda a: a["stage"] == "done")
            assert second.end() == 0, second.log.read_text()
            assert (done["exit_code"], done["state"], done["error"]) == (0, "finished", None)
            assert (
                done["step"] == done["checkpoint_step"] == done["total"] == STEPS
                and done["warnings"] == lost["warnings"]
            )
            assert output.read_json("result.json")["world_size"] == 1
            assert second.log.read_text().count("a worker was lost") == 1

            attempts.append(third := Attempt(tmp_path, nodes, 3, run))  # there is nothing left to do
            done = third.poll_until(lambda a: a["stage"] == "done")
            assert third.end() == 0 and done["checkpoint_step"] == STEPS
            assert (
                f"done: {STEPS} steps" in third.log.read_text()
                and "RayTrainWorker" not in third.log.read_text()
            )
        finally:
            for attempt in attempts:
                attempt.kill()

    records = [json.loads(line) for line in output.read("metrics.jsonl").decode().splitlines()]
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    for number, steps in ((1, range(1, stopped)), (2, range(stopped + 1, STEPS))):
        logs = output.child(f"logs/attempt-{number:02d}")
        driver = logs.read("driver.log").decode()
        assert all(f"step {step:>3}/{STEPS}" in driver for step in steps)
        assert json.loads(logs.read("events.json")) == [EVENT]
        assert any("/worker-" in key for key in logs.list())
