"""One training run through Ray Train that loses workers, is interrupted and changes its size, against one
that is left alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml
from command import MEDSD
from PIL import Image
from plain_workers import Pool
from small_latents import write_latents
from tiny import tiny_components

from medsd_ray.models.save import save_pipeline
from medsd_ray.spec.load import dump_run, parse_run

STEPS, EVERY = 40, 6


@pytest.fixture
def root(tmp_path: Path) -> Path:
    components = tiny_components(0)
    save_pipeline(components, tmp_path / "model")
    write_latents(str(tmp_path / "latents"), components, str(tmp_path / "model"), samples=48)
    return tmp_path


@pytest.fixture
def whole(root: Path, one_worker: Pool) -> Path:
    """The uninterrupted run, of one worker."""
    one_worker.train(parse_run(values(root, "whole", 1)))
    return root / "whole"


def values(root: Path, output: str, workers: int) -> dict:
    return {
        "name": "lost-and-found",
        "model": str(root / "model"),
        "data": {"train": str(root / "latents")},
        "components": {"unet": "full", "text_encoder": "full"},
        # Many micro batches make a step slow enough to be hit in its middle.
        "training": {
            "max_steps": STEPS,
            "global_batch_size": 16,
            "micro_batch_size": 1,
            "learning_rate": 1e-3,
            "log_every": 1,
            "zero_stage": 2,
            "sample_every": STEPS,
            "sample_prompts": ["large left pleural effusion"],
        },
        "checkpoint": {"every_steps": EVERY, "keep_last": 9},
        "resources": {"num_workers": workers, "max_failures": 1},
        "output": str(root / output),
    }


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(root: Path) -> Iterator[Start]:
    """Starts `medsd train` in a process group of its own, as a terminal would."""
    started: list[subprocess.Popen[str]] = []

    def run(*words: str) -> subprocess.Popen[str]:
        started.append(_popen(root, *words))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()


def _popen(root: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [MEDSD, "train", str(root / "run.yaml"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=root,
    )


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"ended early with {process.returncode}:\n{process.communicate()[0]}")
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def train_workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def records(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def complete(output: Path, step: int) -> Callable[[], bool]:
    return (output / f"checkpoints/step-{step:08d}/COMPLETE").is_file


@pytest.mark.timeout(1800)  # about four minutes on two idle cores
def test_lost_workers_interrupts_and_other_world_sizes_change_nothing(root: Path, whole: Path, start: Start):
    output = root / "run"
    (root / "run.yaml").write_text(dump_run(parse_run(values(root, "run", 2))))

    # kill -9 of one worker: Ray Train starts anew from the checkpoint; of another one: the failure limit is
    # reached
    process = start()
    for step in (EVERY, 2 * EVERY):
        wait_for(complete(output, step), process)
        train_workers(process)[-1].send_signal(signal.SIGKILL)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 1, said
    assert said.splitlines()[-1].startswith("medsd: training failed"), said
    assert "Traceback" not in said
    assert not (output / "result.json").exists()

    # without --resume the output is safe
    process = start()
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 2 and "--resume" in said

    # one worker goes on; SIGTERM, as Kubernetes sends it, and Ctrl-C in the terminal each leave a checkpoint
    stopped = 2 * EVERY
    stops = (lambda p: p.send_signal(signal.SIGTERM), lambda p: os.killpg(p.pid, signal.SIGINT))
    for stop in stops:
        before = stopped
        process = start("--resume", "--set", "resources.num_workers=1")
        wait_for(lambda: records(output)[-1]["step"] > before + 1, process)  # noqa: B023 (called at once)
        stop(process)
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 130, said
        assert "with a checkpoint" in said.splitlines()[-1]
        stopped = records(output)[-1]["step"]
        assert before < stopped < STEPS
        assert complete(output, stopped)()

    # two workers at another stage end it; the newest checkpoint was damaged meanwhile
    damaged = output / f"checkpoints/step-{stopped:08d}/rank-00000.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    process = start("--resume", "--set", "training.zero_stage=3")
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert f"the checkpoint of step {stopped} is damaged" in said

    # nothing of all that shows
    assert [r["position"] for r in records(output)] == [16 * step for step in range(1, STEPS + 1)]
    found, wanted = (torch.tensor([r["loss"] for r in records(run)]) for run in (output, whole))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    pictures = [
        np.asarray(Image.open(run / f"samples/step-{STEPS:08d}/00.png").convert("L")).astype(int)
        for run in (output, whole)
    ]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    assert yaml.safe_load((output / "run.yaml").read_text())["training"]["zero_stage"] == 3
    assert (output / "manifest.json").is_file() and (output / "tensorboard").is_dir()
    assert not (output / "ray").exists() and not (output / "stop").exists()
    assert json.loads((output / "progress.json").read_text())["state"] == "finished"
