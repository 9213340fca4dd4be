"""A laptop's verbs against a running Ray cluster that asks for a token: submit, status, logs, cancel,
download.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from command import MEDSD, assert_refused, medsd
from small_latents import write_latents
from tiny import tiny_components

import medsd_ray
from medsd_ray.models.save import save_pipeline
from medsd_ray.runs.progress import read_metrics
from medsd_ray.storage import FolderStorage

TOKEN = secrets.token_hex(16)
STEPS = 60


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The dashboard of a Ray head with two CPUs, on ports of its own."""
    ports = free_ports(4)
    options = ("--port", "--dashboard-port", "--dashboard-agent-listen-port", "--ray-client-server-port")
    words = [word for pair in zip(options, map(str, ports), strict=True) for word in pair]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0"}
    environment["PATH"] = f"{Path(MEDSD).parent}:{os.environ['PATH']}"
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:  # short: sockets
        with Path(folder, "head.log").open("wb") as log:
            head = subprocess.Popen(
                ["ray", "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder}", *words],
                env=environment, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            found = f"http://127.0.0.1:{ports[1]}"
            wait_for(lambda: answers(f"{found}/api/version"), head, Path(folder, "head.log"))
            yield found
        finally:
            children = psutil.Process(head.pid).children(recursive=True)
            head.terminate()
            psutil.wait_procs([psutil.Process(head.pid), *children], timeout=10)
            for process in (child for child in children if child.is_running()):
                process.kill()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def answers(url: str) -> bool:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    with suppress(OSError):
        return urllib.request.urlopen(request, timeout=5).status == 200
    return False


def wait_for(
    condition: Callable[[], object], process: subprocess.Popen, log: Path, seconds: float = 500
) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, f"waited too long\n{log.read_text()}"
        time.sleep(0.2)


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    components = tiny_components(0)
    save_pipeline(components, tmp_path / "model")
    write_latents(str(tmp_path / "latents"), components, str(tmp_path / "model"), samples=48)
    run = {
        "name": "tiny",
        "model": str(tmp_path / "model"),
        "data": {"train": str(tmp_path / "latents")},
        "components": {"unet": "full", "text_encoder": "full"},
        "training": {"max_steps": STEPS, "global_batch_size": 16, "micro_batch_size": 1, "log_every": 1},
        "output": str(tmp_path / "run"),
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


ENVIRONMENT = {"RAY_AUTH_TOKEN": TOKEN, "HOME": "/nonexistent", "RAY_ADDRESS": "127.0.0.1:9"}
"""RAY_ADDRESS leads elsewhere: --address wins."""


def ask(*words: object, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    return medsd(*words, **ENVIRONMENT | {"RAY_AUTH_TOKEN": token})


def done(*words: object) -> str:
    result = ask(*words)
    assert result.returncode == 0, f"{words}: {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.mark.timeout(1200)
def test_a_run_is_submitted_cancelled_and_goes_on(address: str, run_file: Path):
    here, output = ("--address", address), FolderStorage(run_file.parent / "run")
    assert_refused(ask("submit", run_file, *here, token=""), "RAY_AUTH_TOKEN", "asks for a token")
    assert_refused(
        ask("status", *here, token="wrong-token-of-some-length"), "RAY_AUTH_TOKEN", "refuses this token"
    )
    assert "no runs" in done("status", *here)

    log = run_file.with_suffix(".log")
    with log.open("wb") as file:
        command = [MEDSD, "submit", run_file, *here, "--follow"]
        follower = subprocess.Popen(command, env=os.environ | ENVIRONMENT, stdout=file, stderr=file)
    wait_for(lambda: "tiny-1" in log.read_text(), follower, log)
    assert_refused(ask("submit", run_file, *here), "tiny-1", "medsd cancel tiny")
    assert done("status", *here).splitlines()[1].split()[:2] == ["tiny", "tiny-1"]

    wait_for(lambda: read_metrics(output), follower, log)
    said = done("cancel", "tiny", *here)
    assert "tiny-1: STOPPED, step" in said and "with a checkpoint" in said
    assert follower.wait(60) == 130 and "with a checkpoint" in log.read_text()
    one = done("status", "tiny", *here)
    assert one.startswith("tiny-1: STOPPED, step") and "images/s" in one and str(output.root) in one
    assert f"/{STEPS}  loss" in done("logs", "tiny", *here)
    stopped = read_metrics(output)[-1]["step"]
    assert stopped < STEPS and (output.root / f"checkpoints/step-{stopped:08d}/COMPLETE").is_file()

    followed = done("submit", run_file, *here, "--follow")
    assert "tiny-2" in followed and f"step {STEPS}/{STEPS}" in followed and f"done: {STEPS} steps" in followed
    assert [record["step"] for record in read_metrics(output)] == list(range(1, STEPS + 1))
    assert "ended before" in done("cancel", "tiny", *here)
    done("download", "tiny", run_file.parent / "fetched", *here)
    assert (run_file.parent / "fetched" / "COMPLETE").is_file()


def test_the_code_of_a_folder_runs_and_the_exit_code_is_that_of_the_run(
    address: str, run_file: Path, tmp_path: Path
):
    code = tmp_path / "code"
    shutil.copytree(
        Path(medsd_ray.__file__).parent, code / "medsd_ray", ignore=shutil.ignore_patterns("__pycache__")
    )
    with (code / "medsd_ray" / "cli" / "main.py").open("a") as file:
        file.write("\nprint('the code that was sent', flush=True)\n")
    wrong = ("--set", "name=wrong", "--set", f"data.train={tmp_path}/none")
    result = ask("submit", run_file, "--address", address, *wrong, "--working-dir", code, "--follow")
    assert_refused(result, "wrong-1", "exit code 2")
    assert "the code that was sent" in result.stdout and f"medsd: {tmp_path}/none" in result.stdout, (
        result.stdout
    )
    assert "wrong-1: FAILED" in done("status", "wrong", "--address", address)
    assert_refused(ask("logs", "absent", "--address", address), "absent")
