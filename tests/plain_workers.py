"""Training workers as plain processes, for tests that need many short runs: Ray Train's start-up would take
most of the time.

The same function runs in them as under Ray (`worker.work`), with real DeepSpeed over gloo. One pool serves
one world size; its processes stay up, so that libraries are imported once.
"""

from __future__ import annotations

import os
import socket
import traceback
from typing import Any

import torch
import torch.multiprocessing as mp

from medsd_ray.spec.load import dump_run
from medsd_ray.spec.run import RunSpec
from medsd_ray.storage import open_storage
from medsd_ray.training.auto_settings import Machine, choose
from medsd_ray.training.checked_run import CheckedRun
from medsd_ray.training.checks import check_inputs


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def chosen(run: RunSpec) -> CheckedRun:
    """The run, checked, with what it leaves open chosen for a CPU."""
    return choose(check_inputs(run), Machine(gpus=0, has_bf16=False, gpu_memory=0, cpu_memory=8 * 10**9))


def _serve(rank: int, world_size: int, port: int, orders: Any, answers: Any) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size), "DS_ACCELERATOR": "cpu",
    }  # fmt: skip
    import torch.distributed as dist

    from medsd_ray.training.worker import work

    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    while (run := orders.get()) is not None:
        try:
            work(chosen(run), torch.device("cpu"), lambda record: None)
            answers.put(None)
        except BaseException as error:
            answers.put((error, traceback.format_exc()))


class Pool:
    """`world_size` worker processes; `train` runs a spec in them."""

    def __init__(self, world_size: int):
        context = mp.get_context("spawn")
        self.world_size = world_size
        self._orders = [context.Queue() for _ in range(world_size)]
        self._answers = context.Queue()
        port = _free_port()
        self._processes = [
            context.Process(
                target=_serve, args=(rank, world_size, port, self._orders[rank], self._answers), daemon=True
            )
            for rank in range(world_size)
        ]
        for process in self._processes:
            process.start()

    def train(self, run: RunSpec) -> None:
        """Raises what a worker raised. As `medsd train` does, it first writes the spec into the output."""
        open_storage(run.output).write("run.yaml", dump_run(run).encode())
        for orders in self._orders:
            orders.put(run)
        failures = [self._answers.get(timeout=900) for _ in range(self.world_size)]
        for failure in failures:
            if failure:
                print(failure[1])
                raise failure[0]

    def close(self) -> None:
        for orders in self._orders:
            orders.put(None)
        for process in self._processes:
            process.join(20)
            process.kill()
