"""From `medsd train` to its first step, and what light verbs cost: `python bench/startup.py`.

The floor of a run's start is a process that imports torch and starts Ray. Beside it, in the same turns, Ray
Train's own: one worker whose function imports torch, joins its process group and ends, which is what any Ray
Train program pays.
"""

from __future__ import annotations

import http.server
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import subject
import yaml
from common import arguments, pending, row, save, seconds

MEDSD = str(Path(sys.executable).parent / "medsd")
PACKAGES = ("torch", "ray", "typer")
FLOOR = """
import torch, ray, logging
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
print("first", flush=True)
"""
RAY_TRAIN = (
    FLOOR.replace('print("first", flush=True)', "")
    + """
import tempfile, time
from ray.train import RunConfig, ScalingConfig, LoggingConfig
from ray.train.torch import TorchConfig, TorchTrainer
folder = tempfile.mkdtemp()
def work(config):
    import ray.train.torch, torch
    torch.ones(1, device=ray.train.torch.get_device()).sum().item()
    open(config["mark"], "w").close()
import threading, os
def look():
    while not os.path.exists(folder + "/mark"):
        time.sleep(0.02)
    print("first", flush=True)
threading.Thread(target=look, daemon=True).start()
TorchTrainer(work, train_loop_config={"mark": folder + "/mark"}, torch_config=TorchConfig(backend=BACKEND),
    scaling_config=ScalingConfig(num_workers=1, use_gpu=GPU),
    run_config=RunConfig(storage_path=folder, logging_config=LoggingConfig(log_level="WARNING"))).fit()
"""
)
TORCH_IN_SUBMIT = """
import sys
from medsd_ray.cli.main import main
try:
    main()
finally:
    print("MODULES", *sorted({"torch", "diffusers", "transformers", "ray", "numpy"} & set(sys.modules)))
"""


def main() -> None:
    given = arguments(__doc__, repetitions=5).parse_args()
    device = given.device
    rows = light_verbs(given.repetitions, device) if device == "cpu" else []
    rows += first_step(given.repetitions, device)
    gpu = [pending("medsd train to its first step, over importing torch and starting Ray", "s")]
    save("startup", rows, gpu)


def light_verbs(repetitions: int, device: str) -> list[dict]:
    helps, bare = [], []
    for _ in range(3 * repetitions):
        helps.append(seconds([MEDSD, "--help"]))
        bare.append(seconds([sys.executable, "-c", "import typer"]))
    modules = submit_imports()
    submitted = row(
        "medsd submit: torch imported",
        float("torch" in modules),
        None,
        "modules",
        device,
        "ours < 1",
        PACKAGES,
        imported=modules,
    )
    return [
        row(
            "medsd --help, over importing typer",
            statistics.median(helps),
            statistics.median(bare),
            "s",
            device,
            "ours < 0.5",
            PACKAGES,
        ),
        submitted,
    ]


def submit_imports() -> list[str]:
    """The heavy modules that `medsd submit` imports until its job is sent, to a dashboard that takes
    everything.
    """
    with tempfile.TemporaryDirectory() as folder:
        spec = subject.run("small", "s3://bucket/latents", "s3://bucket/out")
        path = Path(folder) / "run.yaml"
        path.write_text(yaml.safe_dump(spec))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        command = [sys.executable, "-c", TORCH_IN_SUBMIT, "submit", str(path), "--address", address]
        said = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        server.shutdown()
    if said.returncode:
        raise SystemExit(f"medsd submit failed: {said.stdout}{said.stderr}")
    return next(line for line in said.stdout.splitlines() if line.startswith("MODULES")).split()[1:]


class Dashboard(http.server.BaseHTTPRequestHandler):
    """As much of Ray's Jobs API as a submit asks for."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        known = {
            "/api/version": {"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""},
            "/api/jobs/": [] if self.command == "GET" else {"job_id": "bench-1", "submission_id": "bench-1"},
        }
        body = json.dumps(known.get(self.path, {})).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, format: str, *args: object) -> None: ...


def first_step(repetitions: int, device: str) -> list[dict]:
    data = subject.latents(subject.shards(64, 64), "small", device)
    backend = f"BACKEND, GPU = {('nccl', True) if device == 'cuda' else ('gloo', False)}\n"
    ours, floor, trainer = [], [], []
    for turn in range(repetitions):
        with tempfile.TemporaryDirectory() as folder:
            spec = subject.run("small", data, f"{folder}/out", max_steps=5, global_batch_size=8, log_every=1)
            spec |= {"resources": {"num_workers": 1, "use_gpu": device == "cuda"}}
            path = Path(folder) / "run.yaml"
            path.write_text(yaml.safe_dump(spec))
            ours.append(until("step 1/5", [MEDSD, "train", str(path)]))
        floor.append(until("first", [sys.executable, "-c", FLOOR]))
        trainer.append(until("first", [sys.executable, "-c", backend + RAY_TRAIN]))
        print(
            f"turn {turn + 1}: medsd {ours[-1]:.1f} s, floor {floor[-1]:.1f} s, "
            f"Ray Train {trainer[-1]:.1f} s",
            flush=True,
        )
    name, middle = "medsd train to its first step", statistics.median(ours)
    return [
        row(
            f"{name}, over importing torch and starting Ray",
            middle,
            statistics.median(floor),
            "s",
            device,
            packages=PACKAGES,
        ),
        row(
            f"{name}, over an empty Ray Train worker",
            middle,
            statistics.median(trainer),
            "s",
            device,
            packages=PACKAGES,
        ),
    ]


def until(word: str, command: list[str]) -> float:
    """Seconds until the command prints a line with the word; then it runs on to its end, unmeasured."""
    began, found = time.monotonic(), None
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if found is None and word in line:
                found = time.monotonic() - began
    if found is None:
        raise SystemExit(f"{' '.join(command)[:80]} ended without {word!r}")
    return found


if __name__ == "__main__":
    main()
