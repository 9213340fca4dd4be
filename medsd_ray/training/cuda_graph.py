"""A training step as one CUDA graph: launched by the host as a whole, so that the GPU never waits for
Python.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM_UP_STEPS = 3
"""Steps before the capture: torch.compile, cuDNN and cuBLAS choose and allocate in them."""
Step = Callable[[Sequence[dict[str, Tensor]]], tuple[Tensor, ...]]


class StepGraph:
    """Calls `step` as it is at first, then captures it, then replays it, copying each batch to where the
    first one was. A step that cannot be captured is called as it is, as is one whose shapes are others.
    """

    def __init__(self, step: Step):
        self._step, self._calls = step, 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[dict[str, Tensor]] = []
        self._results: tuple[Tensor, ...] = ()
        self._refused = False

    @property
    def captured(self) -> bool:
        return self._graph is not None

    def __call__(self, micro_batches: Sequence[dict[str, Tensor]]) -> tuple[Tensor, ...]:
        self._calls += 1
        if self._refused or (self._graph and _shapes(micro_batches) != _shapes(self._inputs)):
            return self._step(micro_batches)
        if self._calls <= WARM_UP_STEPS:
            # On a stream of its own, so that the backward pass leaves nothing tied to the default one, which
            # cannot be captured.
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                results = self._step(micro_batches)
            torch.cuda.current_stream().wait_stream(side)
            return results
        if self._graph is None and not self._capture(micro_batches):
            return self._step(micro_batches)
        assert self._graph
        for kept, batch in zip(self._inputs, micro_batches, strict=True):
            for name, tensor in batch.items():
                kept[name].copy_(tensor, non_blocking=True)
        self._graph.replay()
        return tuple(result.clone() for result in self._results)

    def _capture(self, micro_batches: Sequence[dict[str, Tensor]]) -> bool:
        """Records the step without running it. Whether it could be."""
        self._inputs = [{name: t.clone() for name, t in batch.items()} for batch in micro_batches]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._results = self._step(self._inputs)
        except RuntimeError as error:
            self._refused, self._inputs = True, []
            reason = str(error).splitlines()[0]
            logging.getLogger(__name__).warning(
                "no CUDA graph of the step, which runs without one: %s", reason
            )
            return False
        self._graph = graph
        return True


def _shapes(micro_batches: Sequence[dict[str, Tensor]]) -> list[dict[str, torch.Size]]:
    return [{name: tensor.shape for name, tensor in batch.items()} for batch in micro_batches]
