"""How training scales over workers, what it sends, and where its time goes: `python bench/scaling.py`.

Workers are plain processes that do what Ray Train's do (gloo on a CPU, one thread each; NCCL on GPUs), each
with the same share of a step's images: efficiency is the speed of n workers over n times the speed of one. On
a CPU more workers than cores share them, so that their efficiency is counted over the cores that there are.
Bytes sent are those of each worker's TCP sockets.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import subject
from common import RESULTS, Arm, Row, arguments, pending, row, save, serve

PACKAGES = ("torch", "deepspeed")
CASES = {"cpu": ("small", 64, 16), "cuda": ("sd1", 256, 16)}
"""(layout, pixels, images a worker and step)."""
SENT = 200
"""Offset of tcpi_bytes_sent in Linux's struct tcp_info (include/uapi/linux/tcp.h)."""
PARTS = ("data wait", "forward", "backward", "communication", "update", "rest")
PREFIX = "medsd: "


def main() -> None:
    parser = arguments(__doc__, repetitions=3)
    parser.add_argument("--workers", type=int, nargs="*")
    parser.add_argument("--steps", type=int, default=10)
    given = parser.parse_args()
    if given.arm:
        return arm(json.loads(given.arm))
    if given.device == "cuda":
        import torch

        most = torch.cuda.device_count()
    else:
        most = 4
    workers = given.workers or [n for n in (1, 2, 4, 8) if n <= most]
    layout, size, _ = CASES[given.device]
    data = subject.latents(subject.shards(256, size), layout, given.device)
    with tempfile.TemporaryDirectory() as folder:
        measured = {(n, 2): team(n, 2, data, given, f"{folder}/{n}") for n in workers}
        for stage in (0, 1, 3):
            if 2 in workers:
                measured[2, stage] = team(2, stage, data, given, f"{folder}/stage-{stage}")
    rows = efficiency(measured, workers, given.device) + traffic(measured, given.device)
    gpu = [
        pending(f"sd1 256 px: {n} workers, ZeRO 2, over {n} times one", "images/s", "ratio >= 0.9")
        for n in (2, 4, 8)
    ]
    save("scaling", rows, gpu)
    picture(
        {f"{n} worker{'s' if n > 1 else ''}\nZeRO {stage}": found for (n, stage), found in measured.items()},
        given.device,
    )


def team(world: int, stage: int, data: str, given: Any, folder: str) -> dict[str, Any]:
    """The median turn of `world` workers: images/s and bytes that a worker sent in a step; worker 0's seconds
    of each part of a step, from a turn of its own under torch's profiler.
    """
    Path(folder).mkdir()
    layout, _, batch = CASES[given.device]
    options = {"folder": folder, "layout": layout, "latents": data, "batch": batch, "device": given.device}
    arms = [
        Arm(
            f"worker {rank}",
            options | {"rank": rank, "world": world, "stage": stage},
            CUDA_VISIBLE_DEVICES=str(rank),
        )
        for rank in range(world)
    ]

    def turn(profile: bool = False) -> list[dict[str, Any]]:
        for one in arms:
            one.tell(steps=given.steps, profile=profile)
        return [one.answer() for one in arms]

    try:
        turn()  # warms
        turns = sorted((turn() for _ in range(given.repetitions)), key=lambda answers: answers[0]["seconds"])
        parts = turn(profile=True)[0]["parts"]
    finally:
        for one in arms:
            one.close()
    middle = turns[len(turns) // 2]
    speed = world * batch * given.steps / middle[0]["seconds"]
    print(f"{world} workers, ZeRO {stage}: {speed:.1f} images/s", flush=True)
    return {
        "speed": speed,
        "sent": sum(answer["sent"] for answer in middle) / world / given.steps,
        "parameters": middle[0]["parameters"],
        "parts": {name: seconds / given.steps for name, seconds in parts.items()},
    }


def efficiency(measured: dict, workers: list[int], device: str) -> list[Row]:
    layout, size, batch = CASES[device]
    alone = measured[workers[0], 2]["speed"] / workers[0]
    rows = []
    for n in workers[1:]:
        cores = min(n, os.cpu_count() or 1) if device == "cpu" else n
        name = f"{layout} {size} px: {n} workers, ZeRO 2, over {cores} times one"
        goal = "ratio >= 0.9" if device == "cuda" else None
        rows.append(
            row(
                name,
                measured[n, 2]["speed"],
                cores * alone,
                "images/s",
                device,
                goal,
                PACKAGES,
                batch=f"{batch} a worker",
            )
        )
    return rows


def traffic(measured: dict, device: str) -> list[Row]:
    """Bytes against the theory of ring algorithms (Rajbhandari et al. 2020, arXiv 1910.02054, sec. 7): an
    all-reduce of P values sends 2(n - 1)/n·P of each worker, as do stages 1 and 2 by a reduce-scatter and an
    all-gather; stage 3 half as much again.
    """
    if device == "cuda":
        return []  # NCCL's workers of one machine speak through memory
    layout, size, _ = CASES[device]
    rows = []
    for (n, stage), found in sorted(measured.items()):
        if n == 1:
            continue
        theory = 2 * (n - 1) / n * found["parameters"] * 4 * (1.5 if stage == 3 else 1)
        name = (
            f"{layout} {size} px: sent by each of {n} workers in a step, ZeRO {stage}, over a ring's theory"
        )
        rows.append(row(name, found["sent"] / 1e6, theory / 1e6, "MB", device, None, PACKAGES))
    return rows


def picture(measured: dict[str, dict[str, Any]], device: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    bottom = [0.0] * len(measured)
    for part in PARTS:
        heights = [1000 * found["parts"].get(part, 0.0) for found in measured.values()]
        axes.bar(list(measured), heights, bottom=bottom, label=part)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    axes.set_ylabel("ms of a step, worker 0")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / f"scaling-{device}.png", dpi=110)


# --- a worker's own process


def arm(options: dict[str, Any]) -> None:
    import stepper
    import torch

    torch.set_num_threads(1)
    rank, world = options["rank"], options["world"]
    subject.join_group(options["device"], Path(options["folder"]), rank, world)
    values = subject.run(
        options["layout"],
        options["latents"],
        f"{options['folder']}/out",
        max_steps=100_000,
        zero_stage=options["stage"],
    )
    values["training"]["global_batch_size"] = options["batch"] * world
    values["resources"] = {"num_workers": world}
    parts = Parts(options["device"])
    trainer = stepper.trainer(values, options["device"])
    parameters = sum(torch.Size(shape).numel() for shape in trainer.engine.shapes.values())
    step = stepper.stepping(trainer)

    def steps(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            step()
        stepper.finish(options["device"])
        return time.perf_counter() - began

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        trainer.collectives.barrier()
        if question["profile"]:
            return {"parts": parts.profiled(lambda: steps(question["steps"]))}
        sent = bytes_sent()
        return {"seconds": steps(question["steps"]), "sent": bytes_sent() - sent, "parameters": parameters}

    serve(answer)


class Parts:
    """The parts of a step as events of torch's profiler, in the steps that `profiled` runs."""

    def __init__(self, device: str):
        """Labels the engine's methods, the loader's queue and torch.distributed's calls, before anything
        holds those.
        """
        import queue

        import torch.distributed as dist

        from medsd_ray.training.engine import Engine

        self.device, self.on = device, False
        for method, part in (
            ("__call__", "forward"),
            ("backward", "backward"),
            ("end_micro_batch", "update"),
        ):
            self._label(Engine, method, part)
        for call in (
            "all_reduce",
            "all_gather_into_tensor",
            "reduce_scatter_tensor",
            "broadcast",
            "reduce",
            "all_gather",
        ):
            self._label(dist, call, "communication")
        self._label(queue.Queue, "get", "data wait")

    def _label(self, owner: Any, method: str, part: str) -> None:
        import torch
        from stepper import finish

        inner = getattr(owner, method)

        @functools.wraps(inner)
        def labelled(*given: Any, **named: Any) -> Any:
            if not self.on:
                return inner(*given, **named)
            with torch.profiler.record_function(PREFIX + part):
                try:
                    return inner(*given, **named)
                finally:
                    finish(self.device)  # what a part has started is its own

        setattr(owner, method, labelled)

    def profiled(self, steps: Callable[[], float]) -> dict[str, float]:
        """Seconds of each part of `steps`, which returns how long it took."""
        from torch.profiler import ProfilerActivity, profile

        self.on = True
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            seconds = steps()
        self.on = False
        events = [e for e in seen.events() or () if e.name.startswith(PREFIX)]
        spans = [
            (e.name.removeprefix(PREFIX), e.time_range.start / 1e6, e.time_range.end / 1e6) for e in events
        ]
        return parts_of(spans, seconds)


def parts_of(events: list[tuple[str, float, float]], seconds: float) -> dict[str, float]:
    """Seconds of each part among events (part, start, end), each instant counted once: for the event that
    began last.
    """
    marks = sorted({at for _, start, end in events for at in (start, end)})
    parts: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    for began, ended in itertools.pairwise(marks):
        running = [event for event in events if event[1] <= began and event[2] >= ended]
        if running:
            parts[max(running, key=lambda event: event[1])[0]] += ended - began
    return parts | {"rest": seconds - sum(parts.values())}


def bytes_sent() -> int:
    """Of all TCP connections of this process, since they were made: those of its process groups, on a CPU."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                if one.type == socket.SOCK_STREAM and one.family in (socket.AF_INET, socket.AF_INET6):
                    total += struct.unpack_from(
                        "Q", one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), SENT
                    )[0]
    return total


if __name__ == "__main__":
    main()
