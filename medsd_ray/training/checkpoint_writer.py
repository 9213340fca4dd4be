"""Checkpoints on their way to the run's storage, while training goes on."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from medsd_ray.retries import with_retries
from medsd_ray.runs.checkpoints import read_best, saved_steps
from medsd_ray.runs.chosen import Choice, choose, figures_of, read_figures, write_choice
from medsd_ray.runs.names import BEST_CHECKPOINT, CHECKPOINT, checkpoint_folder
from medsd_ray.spec.training import Checkpoint
from medsd_ray.storage import Storage, entry_of_file
from medsd_ray.training.collectives import Collectives


class CheckpointWriter:
    """Writes checkpoints while training goes on: `save` has the tensors copied and returns. Worker 0 calls
    `before_complete` once all of a checkpoint but its mark is there."""

    def __init__(
        self, output: Storage, collectives: Collectives, keep: Checkpoint, warn: Callable[[str], None],
        before_complete: Callable[[], None] = lambda: None,
    ):  # fmt: skip
        self.output, self.collectives, self.keep, self.warn = output, collectives, keep, warn
        self.before_complete = before_complete
        self.last_step: int | None = None
        """Worker 0: the newest step whose checkpoint is complete."""
        self.choice: Choice | None = None
        """Worker 0: which of the checkpoints is used, by what was measured so far."""
        self._figures: dict[int, dict[str, float]] | None = None
        self._group = collectives.new_group()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[str | None] | None = None

    def save(
        self, step: int, take: Callable[[], dict[str, dict[str, Tensor]]], description: dict[str, Any]
    ) -> None:
        """`take` gives file name -> tensor name -> a copy of this worker's own tensor; `description` goes to
        checkpoint.json (worker 0's). Waits for the checkpoint before, where that is still on its way, so that
        `take` may use its memory.
        """
        self.wait()
        self._pending = self._thread.submit(self._write, step, take(), description)

    def wait(self) -> str | None:
        """Waits for the checkpoint on its way. At worker 0, why it failed; None where it is complete or there
        is none.
        """
        if self._pending is None:
            return None
        result, self._pending = self._pending.result(), None
        return result

    def chosen(self) -> Choice | None:
        """Worker 0: which checkpoint is used; None where none is complete. Not while one is on its way."""
        if self.choice is None and (complete := saved_steps(self.output)[0]):
            self.choice = choose(read_figures(self.output, complete), self.keep.select)
        return self.choice

    def _write(
        self, step: int, tensors: dict[str, dict[str, Tensor]], description: dict[str, Any]
    ) -> str | None:
        store = self.output.child(checkpoint_folder(step))
        files: dict[str, dict] = {}
        failure = None
        try:
            with tempfile.TemporaryDirectory(prefix="medsd-") as folder:
                for name, parts in tensors.items():
                    path = Path(folder) / name
                    save_file(parts, path)
                    files[name] = entry_of_file(path)
                    with_retries(lambda path=path, name=name: store.upload(path, name))
        except Exception as error:
            failure = f"{error}"
        reports = self.collectives.gather((files, failure), group=self._group)
        if reports is None:
            return None
        failures = [f"worker {rank}: {failure}" for rank, (_, failure) in enumerate(reports) if failure]
        if not failures:
            try:
                self._complete(
                    step, store, {k: v for part, _ in reports for k, v in part.items()}, description
                )
            except Exception as error:
                failures = [f"{error}"]
        if failures:
            self.warn(f"the checkpoint of step {step} was not saved: {'; '.join(failures)}")
            return "; ".join(failures)
        return None

    def _complete(
        self, step: int, store: Storage, files: dict[str, dict], description: dict[str, Any]
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="medsd-") as folder:
            path = Path(folder) / CHECKPOINT
            path.write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")
            files = files | {CHECKPOINT: entry_of_file(path)}
            with_retries(lambda: store.upload(path, CHECKPOINT))
        with_retries(self.before_complete)
        with_retries(lambda: store.mark_complete(files))
        self.last_step = step
        try:
            self._keep(step, figures_of(description))
        except Exception as error:  # what was to be deleted stays; the checkpoint itself is complete
            self.warn(f"older checkpoints were not deleted: {error}")

    def _keep(self, step: int, figures: dict[str, float]) -> None:
        """Chooses among the checkpoints that are there, and deletes those that are neither among the newest
        nor chosen.
        """
        complete, _ = saved_steps(self.output)
        if self._figures is None:  # once in a process: what the checkpoints of before say
            self._figures = read_figures(self.output, complete)
        self._figures[step] = figures
        newest = complete[-self.keep.keep_last :]
        there = {s: self._figures.get(s, {}) for s in (complete if self.keep.keep_best else newest)}
        self.choice = choose(there, self.keep.select)
        write_choice(self.output, self.choice, there[self.choice.step])
        for old in complete:
            if old not in newest and old != self.choice.step:
                self.output.delete_tree(checkpoint_folder(old))


def drop_unusable(output: Storage, step: int) -> None:
    """Deletes what an earlier attempt left: incomplete checkpoints, and those after `step`, from where the
    run goes on.
    """
    complete, incomplete = saved_steps(output)
    for old in incomplete + [s for s in complete if s > step]:
        output.delete_tree(checkpoint_folder(old))
    if (best := read_best(output)) and best["step"] > step:
        output.delete(BEST_CHECKPOINT)
