"""What checkpoints cost, and how much of a run they save: `python bench/checkpoint.py`.

Three parts. `stall`: training that saves as medsd does (copies, then writes and uploads while steps go on)
against the same save waited for, to a folder and to S3; and how long a start from a checkpoint takes.
`goodput`: `medsd train` whose worker is killed again and again, at several intervals between checkpoints.
`simulated`: 1,000 GPUs with the costs measured here.
"""

from __future__ import annotations

import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import subject
import yaml
from common import RESULTS, ROOT, THREADS, Arm, Row, alternate, arguments, median, pending, row, save, serve
from outages import Costs, best_interval, expected, expected_of_training, simulate

sys.path.insert(0, str(ROOT / "tests"))
PACKAGES = ("torch", "deepspeed", "ray", "safetensors")
CASES = {"cpu": ("small", 64, 8), "cuda": ("sd1", 256, 16)}
STEPS = 600
EVERY = (4, 20, 80)
"""Steps between checkpoints of the measured runs; failures come at the same times in each."""
MTBF_S = 40.0
SHOWN_S = 3.0
"""Within this time of a kill come the lines of steps made before it; a new worker's imports alone take
longer.
"""
LLAMA_HOURS = 54 * 24 * 16_384 / 419
"""GPU hours between unexpected interruptions: 419 in 54 days on 16,384 GPUs (Llama 3, arXiv 2407.21783, sec.
3.3.4).
"""


def main() -> None:
    parser = arguments(__doc__, repetitions=7)
    parser.add_argument("--part", choices=("stall", "goodput", "simulated"), help="one of the three alone")
    parser.add_argument(
        "--every", type=int, nargs="*", default=EVERY, help="of goodput: steps between checkpoints"
    )
    given = parser.parse_args()
    if given.arm:
        return arm(json.loads(given.arm))
    if given.part in (None, "stall"):
        save("checkpoint", stall(given), gpu())
    if given.part in (None, "goodput"):
        for every in given.every:
            save("checkpoint", goodput(every, given.device))
    if given.part in (None, "simulated"):
        save("checkpoint", simulated(given.device))


def gpu() -> list[Row]:
    return [
        pending("sd1: step's wait for a save, over a blocking save, folder", "s", "ratio < 0.05"),
        pending("sd1: step's wait for a save, over a blocking save, S3", "s", "ratio < 0.05"),
        pending("sd1: start from a checkpoint, over torch.load of the same", "s"),
    ]


# --- stall and resume


def stall(given: Any) -> list[Row]:
    from s3_server import s3_server

    layout, size, batch = CASES[given.device]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        data = subject.latents(subject.shards(64, size), layout, given.device)
        common = {"folder": folder, "layout": layout, "latents": data, "batch": batch, "device": given.device}
        (Path(folder) / "s3").mkdir()
        with s3_server(Path(folder) / "s3") as server:
            server.client().create_bucket(Bucket="bench")
            rows += stalls("folder", common | {"output": f"{folder}/out"}, given)
            rows += stalls("S3", common | {"output": "s3://bench/out"}, given, **server.environment)
        rows += resume(common, given)
    return rows


def stalls(where: str, options: dict[str, Any], given: Any, **env: str) -> list[Row]:
    """Both kinds of save in one process, so that they save the same tensors to the same place."""
    arm = Arm(f"stall {where}", options, **env)
    kinds = ("none", "async", "blocking", "torch")
    found: dict[str, list[dict]] = {kind: [] for kind in kinds}
    arm.ask(save="async")
    for turn in range(given.repetitions):
        for kind in kinds if turn % 2 == 0 else reversed(kinds):
            found[kind].append(arm.ask(save=kind))
    arm.close()
    waited = {kind: median(answers, "waited") for kind, answers in found.items()}
    whole = {
        kind: median(answers, "seconds") - median(found["none"], "seconds") for kind, answers in found.items()
    }
    layout, facts = options["layout"], {"MB": found["async"][0]["megabytes"]}

    def line(name: str, ours: float, peer: float, goal: str | None = None) -> Row:
        return row(f"{layout}: {name}, {where}", ours, peer, "s", given.device, goal, PACKAGES, **facts)

    return [
        line(
            "step's wait for a save, over a blocking save",
            waited["async"],
            waited["blocking"],
            "ratio < 0.05",
        ),
        line("step's wait for a save, over torch.save to a folder", waited["async"], waited["torch"]),
        line(
            "whole cost of a save with what it slows beside it, over a blocking save",
            whole["async"],
            whole["blocking"],
        ),
    ]


def resume(options: dict[str, Any], given: Any) -> list[Row]:
    """A Trainer from a checkpoint, less a Trainer from none; beside torch.load of the same tensors."""
    arm = Arm("resume", options | {"output": f"{options['folder']}/resumed"})
    answers = alternate([arm], given.repetitions, {"resume": True}, resume=True)["resume"]
    arm.close()
    ours, peer = median(answers, "with") - median(answers, "without"), median(answers, "torch")
    name = f"{options['layout']}: start from a checkpoint, over torch.load of the same"
    return [row(name, ours, peer, "s", given.device, None, PACKAGES)]


def arm(options: dict[str, Any]) -> None:
    import stepper
    import torch

    torch.set_num_threads(THREADS)
    stepper.join(options)
    if options["name"] == "resume":
        return serve(lambda _: resumed(options))
    trainer = make(options, options["output"])
    step = stepper.stepping(trainer)
    for _ in range(3):
        step()

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        stepper.finish(options["device"])
        began = time.perf_counter()
        step()
        stepper.finish(options["device"])
        at = time.perf_counter()
        save_as(question["save"], trainer, options)
        waited = time.perf_counter() - at
        for _ in range(30):
            step()
        stepper.finish(options["device"])
        seconds = time.perf_counter() - began
        trainer.writer.wait()
        state = (
            4 * 4 * sum(owned.length for _, owned in trainer.owned_ranges) / 1e6
        )  # weight, average and two moments
        return {"waited": waited, "seconds": seconds, "megabytes": round(state)}

    serve(answer)


def make(options: dict[str, Any], output: str) -> Any:
    import stepper

    values = subject.run(
        options["layout"], options["latents"], output, max_steps=100_000, ema={"decay": 0.999}
    )
    values["training"]["global_batch_size"] = options["batch"]
    return stepper.trainer(values, options["device"])


saves = 0


def save_as(kind: str, trainer: Any, options: dict[str, Any]) -> None:
    global saves
    saves += 1
    if kind == "torch":
        torch_save(trainer, Path(options["folder"]) / "peer.pt")
    elif kind != "none":
        trainer.save(saves, None)
    if kind == "blocking" and (failure := trainer.writer.wait()):
        raise SystemExit(failure)


def torch_save(trainer: Any, path: Path) -> None:
    import torch

    torch.save(
        {
            "module": trainer.engine.module.state_dict(),
            "ema": trainer.ema.averages,
            "adam": trainer.engine.adam.state_dict(),
        },
        path,
    )


def resumed(options: dict[str, Any]) -> dict[str, Any]:
    """Seconds to make a Trainer with a checkpoint there and without one, and of torch.load with
    load_state_dict.
    """
    import shutil

    import stepper
    import torch

    output, peer = Path(options["output"]), Path(options["folder"]) / "resumed.pt"
    if not output.exists():
        first = make(options, str(output))
        stepper.stepping(first)()
        first.save(1, None)
        first.writer.wait()
        torch_save(first, peer)
    times = {}
    for name, where in (("with", output), ("without", output.with_name("empty"))):
        began = time.perf_counter()
        trainer = make(options, str(where))
        times[name] = time.perf_counter() - began
        trainer.reporter.close("interrupted")
    shutil.rmtree(output.with_name("empty"))
    began = time.perf_counter()
    state = torch.load(peer, map_location=options["device"])
    trainer.engine.module.load_state_dict(state["module"])
    trainer.engine.adam.load_state_dict(state["adam"])
    return times | {"torch": time.perf_counter() - began}


# --- goodput


def goodput(every: int, device: str) -> list[Row]:
    from medsd_ray.runs.progress import read_metrics
    from medsd_ray.storage import open_storage

    layout, size, batch = CASES[device]
    data = subject.latents(subject.shards(64, size), layout, device)
    with tempfile.TemporaryDirectory() as folder:
        spec = subject.run(layout, data, f"{folder}/out", max_steps=STEPS, log_every=1)
        spec["training"] |= {"global_batch_size": batch}
        spec |= {
            "checkpoint": {"every_steps": every},
            "resources": {"max_failures": 100, "use_gpu": device == "cuda"},
        }
        path = Path(folder) / "run.yaml"
        path.write_text(yaml.safe_dump(spec))
        command = [str(Path(sys.executable).parent / "medsd"), "train", str(path)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            watched = watch(process)
        records = read_metrics(open_storage(f"{folder}/out"))
    useful = (
        STEPS
        * batch
        / statistics.median(
            record["images_per_second"] for record in records if "images_per_second" in record
        )
    )
    share = useful / watched["wall"]
    facts = {
        "failures": watched["failures"],
        "restart": watched["restart"],
        "step": useful / STEPS,
        "seconds": watched["wall"],
    }
    print(f"every {every} steps: {share:.3f} of the time was useful; {facts}", flush=True)
    restart = watched["restart"] or 0.0
    # Between two failures, which come while workers train.
    trained = watched["wall"] / max(1, watched["failures"]) - restart
    foreseen = expected_of_training(costs(restart), trained, every * facts["step"])
    name = (
        f"{layout}: goodput, a worker killed every {MTBF_S:.0f} s on average, "
        f"a checkpoint each {every} steps, over the model's"
    )
    notes = {key: round(value, 3) for key, value in facts.items() if value is not None}
    return [row(name, share, foreseen, "of the time", device, None, PACKAGES, **notes)]


def watch(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Kills a worker at random times after the first step, up to the last step."""
    random_times = random.Random(6)
    first = last = next_failure = killed_at = None
    restarts: list[float] = []
    failures = 0
    assert process.stdout
    for line in process.stdout:
        now = time.monotonic()
        if line.startswith("step ") and "validation" not in line:
            last = now
            if first is None or next_failure is None:
                first, next_failure = now, now + random_times.expovariate(1 / MTBF_S)
            if killed_at is not None and now > killed_at + SHOWN_S:
                restarts.append(now - killed_at)
                killed_at = None
            if now > next_failure:
                killed_at, failures = now, failures + 1
                kill_worker(process.pid)
                next_failure = now + random_times.expovariate(1 / MTBF_S)
    if process.wait() or first is None or last is None:
        raise SystemExit(f"medsd train ended with {process.returncode}")
    return {
        "wall": last - first,
        "failures": failures,
        "restart": statistics.mean(restarts) if restarts else None,
    }


def kill_worker(pid: int) -> None:
    import psutil

    for child in psutil.Process(pid).children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(child.cmdline()):
                child.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue


def costs(restart: float, where: str = "folder", kind: str = "ours") -> Costs:
    """What the stall part measured on this kind of machine: `ours`, or `peer` for the blocking save."""
    rows = {
        r["name"]: r for r in json.loads((RESULTS / "checkpoint.json").read_text()) if r["ours"] is not None
    }
    wait = next(
        r
        for name, r in rows.items()
        if name.endswith(f"step's wait for a save, over a blocking save, {where}")
    )
    return Costs(stall=wait[kind], upload=wait["peer"] if kind == "ours" else 0.0, restart=restart)


# --- simulated


def simulated(device: str) -> list[Row]:
    """1,000 GPUs that fail as published: how often to save, and what is left, with our saves and with
    blocking ones.
    """
    rows = []
    known = [
        r
        for r in json.loads((RESULTS / "checkpoint.json").read_text())
        if "goodput, a worker killed" in r["name"]
    ]
    restart = statistics.median(r["versions"]["restart"] for r in known if "restart" in r["versions"])
    for name, mtbf in (("as often as Llama 3's did", LLAMA_HOURS * 3600 / 1000), ("one a minute", 60.0)):
        share, intervals = {}, {}
        for kind in ("ours", "peer"):
            cost = costs(restart, "S3", kind)
            intervals[kind] = best_interval(cost, mtbf)
            runs = [
                simulate(cost, mtbf, intervals[kind], round(200 * mtbf / intervals[kind]), seed)
                for seed in range(20)
            ]
            share[kind] = statistics.mean(runs)
            print(
                f"{name}, {kind}: {cost}, MTBF {mtbf:.0f} s, best interval {intervals[kind]:.1f} s, "
                f"goodput {share[kind]:.4f}"
            )
        facts = {
            "interval": f"{intervals['ours']:.1f} s",
            "restart": f"{restart:.1f} s",
            "MTBF": f"{mtbf:.0f} s",
        }
        facts["closed form"] = f"{expected(costs(restart, 'S3'), mtbf, intervals['ours']):.4f}"
        label = f"simulated, 1,000 GPUs, failures {name}: goodput at the best interval, over blocking saves"
        rows.append(row(label, share["ours"], share["peer"], "of the time", device, None, PACKAGES, **facts))
    return rows


if __name__ == "__main__":
    main()
