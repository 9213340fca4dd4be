"""Micro batches in training order, read ahead: what a step sees depends on (seed, step) alone."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from torch import Tensor

from medsd_ray.data.dataset import Dataset
from medsd_ray.data.order import batch_positions

STEPS_AHEAD = 4


def batches(
    dataset: Dataset,
    *,
    first_step: int,
    last_step: int,
    global_batch_size: int,
    micro_batch_size: int,
    rank: int,
    world_size: int,
    prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda sample: sample,
) -> Iterator[list[dict[str, Tensor]]]:
    """Reads a worker's share of each step, ahead of need by a thread.

    Args:
        dataset: Where the samples come from.
        first_step: The first step to read, from 0.
        last_step: The step after the last.
        global_batch_size: Samples of a step, over all workers.
        micro_batch_size: Samples of a forward pass on a worker; the last one of a step may have fewer.
        rank: This worker's number.
        world_size: The number of workers.
        prepare: What the thread makes of each micro batch, as `Dataset.batch` gives it.

    Yields:
        For each step in [first_step, last_step) the worker's micro batches, prepared.

    Raises:
        InputError: A shard is missing or damaged. What the thread raises is raised here.
    """
    ready: queue.Queue[list[dict[str, Tensor]] | BaseException] = queue.Queue(STEPS_AHEAD)
    stopped = threading.Event()

    def put(item: list[dict[str, Tensor]] | BaseException) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.2)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for step in range(first_step, last_step):
                if stopped.is_set():
                    return
                share = batch_positions(step, global_batch_size, rank, world_size)
                put(
                    [
                        prepare(dataset.batch(share[at : at + micro_batch_size]))
                        for at in range(0, len(share), micro_batch_size)
                    ]
                )
        except BaseException as error:
            put(error)

    threading.Thread(target=read, name="read-ahead", daemon=True).start()
    try:
        for _ in range(first_step, last_step):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
