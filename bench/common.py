"""What the benchmarks share: results as rows, arms in processes of their own that take turns, and peers'
environments.

A row is {name, ours, peer, unit, ratio, goal, met, device, versions}. `ratio` is ours / peer. `goal` names
one of the two and a bound, such as "ratio >= 2" or "ours < 0.5"; `met` is null where there is no goal or no
figure yet.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import operator
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medsd" / "bench"
Row = dict[str, Any]
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
THREADS = int(os.environ.get("MEDSD_BENCH_THREADS", "1"))
"""Of torch in each arm: one, with which both sides lose the same where the machine has other work; threads
that wait for each other at every operation lose far more than their share.
"""
STARTED_LOAD = os.getloadavg()[0]


def arguments(doc: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes; `defaults` for repetitions."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repetitions", type=int, default=defaults.get("repetitions", 5))
    parser.add_argument("--arm", help=argparse.SUPPRESS)  # a process of the benchmark's own, see Arm
    return parser


# --- results


def row(
    name: str, ours: float | None, peer: float | None, unit: str, device: str, goal: str | None = None,
    packages: Sequence[str] = (), **notes: Any,
) -> Row:  # fmt: skip
    """`packages` are those of this environment that the figure depends on; `notes` stand beside their
    versions.
    """
    ratio = _rounded(None if ours is None or not peer else ours / peer)
    ours, peer = _rounded(ours), _rounded(peer)  # a verdict is of the figures that are shown
    return {
        "name": name,
        "ours": ours,
        "peer": peer,
        "unit": unit,
        "ratio": ratio,
        "goal": goal,
        "met": met(goal, ours, ratio),
        "device": machine(device),
        "versions": {p: version(p) for p in ("medsd", *packages)} | conditions() | notes,
    }


def conditions() -> dict[str, str]:
    load = f"{STARTED_LOAD:.1f} to {os.getloadavg()[0]:.1f}"
    return {"python": platform.python_version(), "threads": str(THREADS), "load average": load}


def pending(name: str, unit: str, goal: str | None = None) -> Row:
    """A figure that needs a GPU: its command is ready, its place in the table empty."""
    empty = dict.fromkeys(("ours", "peer", "ratio"))
    return {"name": name, **empty, "unit": unit, "goal": goal, "met": None, "device": "cuda", "versions": {}}


def met(goal: str | None, ours: float | None, ratio: float | None) -> bool | None:
    if goal is None:
        return None
    which, compare, bound = goal.split()
    value = {"ours": ours, "ratio": ratio}[which]
    return None if value is None else COMPARE[compare](value, float(bound))


def machine(device: str) -> str:
    if device == "cuda":
        import torch

        return f"cuda, {torch.cuda.get_device_name()}"
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return f"cpu, {os.cpu_count()} cores" + (f" of {models[0]}" if models else "")


def save(name: str, rows: Sequence[Row], gpu: Sequence[Row] = ()) -> None:
    """Writes results/NAME.json and prints it: a row takes the place of the one of its name and kind of
    device, others stay.

    `gpu` rows stand for those that no GPU has measured yet.
    """
    path = RESULTS / f"{name}.json"
    before: list[Row] = json.loads(path.read_text()) if path.is_file() else []
    merged = {_place(r): r for r in before} | {_place(r): r for r in rows}
    merged = {_place(r): r for r in gpu} | merged
    rows = sorted(merged.values(), key=lambda r: r["device"].startswith("cuda"))
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n")
    for r in rows:
        word = {None: "", True: "met", False: "NOT MET"}[r["met"]]
        print(
            f"{r['name']:<70} {shown(r['ours']):>9} | {shown(r['peer']):>9} {r['unit']:<10} "
            f"ratio {shown(r['ratio'])} {word}"
        )


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _place(r: Row) -> tuple[str, str]:
    return r["name"], r["device"].partition(",")[0]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


# --- measuring


class Arm:
    """One side of a comparison in a process of its own: `python bench/X.py --arm OPTIONS`, which ends in
    `serve`.

    The process starts with the first question and stays until `close`, so that repetitions of several arms
    can take turns in the same conditions, each with warm code and memory of its own. Its stderr goes to a
    file in `options["folder"]`.
    """

    def __init__(
        self,
        name: str,
        options: dict[str, Any],
        *,
        python: str = sys.executable,
        script: str | None = None,
        **env: str,
    ):
        self.name, self._env = name, env
        self._command = [python, script or sys.argv[0], "--arm", json.dumps({"name": name} | options)]
        self._log = Path(options["folder"]) / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.log"
        self._process: subprocess.Popen[str] | None = None

    def ask(self, **question: Any) -> dict[str, Any]:
        self.tell(**question)
        return self.answer()

    def tell(self, **question: Any) -> None:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log.open("ab"),
                text=True,
                env=os.environ | self._env,
            )
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # the answer's absence says it
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self._process and self._process.stdout
        for line in self._process.stdout:  # libraries print to it too
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))
        raise SystemExit(f"{self.name} ended with {self._process.wait()}: {self._log.read_text()[-2000:]}")

    def __enter__(self) -> Arm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        return self._process is not None

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The other end of an Arm: answers questions until there are no more."""
    for line in sys.stdin:
        print("ANSWER " + json.dumps(answer(json.loads(line))), flush=True)


def alternate(
    arms: Sequence[Arm], repetitions: int, warm: dict | None = None, *, alive: bool = True, **question: Any
) -> dict[str, list[dict]]:
    """Asks the arms in turn, so that what disturbs the machine disturbs all; `warm` is asked of each new
    process before.

    Without `alive` an arm ends before the next one starts, where a GPU's memory holds only one.
    """
    answers: dict[str, list[dict]] = {arm.name: [] for arm in arms}
    for turn in range(repetitions):
        for arm in arms if turn % 2 == 0 else reversed(arms):
            if warm and not arm.running:
                arm.ask(**warm)
            answers[arm.name].append(arm.ask(**question))
            if not alive:
                arm.close()
    return answers


def median(answers: Sequence[dict[str, Any]], key: str) -> float:
    return statistics.median(answer[key] for answer in answers)


def seconds(command: Sequence[str], **env: str) -> float:
    """Wall-clock seconds of a command, which must end well."""
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | env)
    return time.monotonic() - began


# --- peers


def environment(name: str, packages: Sequence[str]) -> str:
    """The Python of a virtual environment with these pinned packages, made by uv when first needed."""
    folder = CACHE / "envs" / name
    python, done = folder / "bin" / "python", folder / "packages.txt"
    wanted = "\n".join(packages)
    if not (done.is_file() and done.read_text() == wanted):
        uv = shutil.which("uv") or str(ROOT / ".venv-tools" / "bin" / "uv")
        subprocess.run(
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True
        )
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *packages],
            check=True,
        )
        done.write_text(wanted)
    return str(python)


@dataclass
class Timed:
    """A worker of medsd's whose tasks also say who ended them and when."""

    worker: Any

    def run(self, task: Any) -> tuple[int, int, float]:
        return self.worker.run(task), os.getpid(), time.time()


def over_workers(
    what: str, loop: str, options: dict[str, Any], line: Callable[..., Row], turns: int = 4
) -> list[Row]:
    """Two Ray workers of one core over one; beside it what two cores give at best, to two plain loops that
    share nothing.

    The arm `over workers` answers for a number of `workers`, the arms `loop` 1 and 2 are the plain loops. The
    first turn warms.
    """
    over, loops = Arm("over workers", options), [Arm(f"{loop} {n}", options) for n in (1, 2)]
    found: list[dict[str, Any]] = []
    for _ in range(1 + turns):
        turn = {name: over.ask(workers=n)["images_per_second"] for name, n in (("one", 1), ("two", 2))}
        turn["alone"] = loops[0].ask()["images_per_second"]
        for one in loops:
            one.tell()
        found.append(turn | {"at_once": sum(one.answer()["images_per_second"] for one in loops)})
    for one in (over, *loops):
        one.close()
    middle = {name: median(found[1:], name) for name in found[0]}
    return [
        line(f"{what} over 2 Ray workers of one core, over 1", middle["two"], middle["one"], "ratio >= 1.8"),
        line(
            f"{what} over 2 Ray workers of one core, over 2 batch loops at once",
            middle["two"],
            middle["at_once"],
        ),
        line(
            f"{what}: what the two cores give, 2 batch loops at once over 1",
            middle["at_once"],
            middle["alone"],
        ),
    ]


def rate_over_workers(worker: Any, tasks: Sequence[Any], num_workers: int) -> float:
    """Images/s of all workers together, each from the end of its first task, which warms it, to the end of
    its last.

    The tasks of `worker` give how many images they made. The workers' start does not count, nor that one ends
    before the other.
    """
    from medsd_ray.ray_tasks import run_tasks

    ends: dict[int, list[tuple[float, int]]] = {}
    for _, (count, process, at) in run_tasks(Timed(worker), tasks, num_workers):
        ends.setdefault(process, []).append((at, count))
    return sum(sum(count for _, count in mine[1:]) / (mine[-1][0] - mine[0][0]) for mine in ends.values())
