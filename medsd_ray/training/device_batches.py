"""From what the loader's thread has prepared to batches on the device, one step ahead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

Batch = dict[str, Tensor]


def pinned(batch: Batch, device: torch.device) -> Batch:
    """The batch in memory from which a GPU copies by itself; as it is for a CPU."""
    if device.type == "cpu":
        return batch
    with torch.cuda.device(device):  # a thread begins with the first GPU, which may be another worker's
        return {name: tensor.pin_memory() for name, tensor in batch.items()}


def to_device(batch: Batch, device: torch.device) -> Batch:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def on_device(steps: Iterable[list[Batch]], device: torch.device) -> Iterator[list[Batch]]:
    """The micro batches of each step on `device`. To a GPU a step's are copied while the one before is
    computed, on a stream of their own.
    """
    if device.type == "cpu":
        yield from steps
        return
    stream, ahead = torch.cuda.Stream(device), None
    for micro_batches in steps:
        with torch.cuda.stream(stream):
            moved = [to_device(batch, device) for batch in micro_batches]
            copied = stream.record_event()
        if ahead:
            yield _waited_for(*ahead)
        ahead = moved, copied
    if ahead:
        yield _waited_for(*ahead)


def _waited_for(micro_batches: list[Batch], copied: Any) -> list[Batch]:
    current = torch.cuda.current_stream()
    current.wait_event(copied)
    for batch in micro_batches:
        for tensor in batch.values():
            tensor.record_stream(current)  # else its memory could be taken for the next copy too soon
    return micro_batches
