"""Worker 0's records of a run while it goes on: metrics.jsonl, progress.json and TensorBoard's files.

A thread of its own writes them to the run's storage, so that a slow store does not slow training. The same
thread looks for the `stop` flag that asks for a checkpoint and an end.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medsd_ray.errors import RefusedError
from medsd_ray.retries import with_retries
from medsd_ray.runs.checkpoints import VALIDATION
from medsd_ray.runs.names import METRICS, PROGRESS, STOP, TENSORBOARD
from medsd_ray.runs.progress import VALIDATED, read_metrics, read_progress
from medsd_ray.storage import Storage
from medsd_ray.times import now

WRITE_EVERY_S = 1.0
TENSORBOARD_EVERY_S = 30.0


class Reporter:
    """Keeps and writes a run's records, at worker 0.

    It takes over what workers before it in the same run have written, so that a restart loses no warning;
    only records of steps after `first_step`, left by workers that were lost, are dropped.
    """

    def __init__(
        self, output: Storage, total: int, first_step: int, warnings: list[str],
        say: Callable[[str], None] = lambda text: None,
    ):  # fmt: skip
        """`say` gets each warning at once, as a store that takes no writes does not tell it."""
        self.output, self.total, self.say = output, total, say
        damage: list[str] = []
        records = with_retries(lambda: read_metrics(output, damage.append))
        self.records = [_taken_over(record) for record in records if record["step"] <= first_step]
        before = with_retries(lambda: read_progress(output)).get("warnings", [])
        warnings = [*before, *(w for w in dict.fromkeys([*warnings, *damage]) if w not in before)]
        self.progress: dict[str, Any] = {
            "step": first_step,
            "total": total,
            "state": "running",
            "warnings": warnings,
        }
        self.stop_requested = False
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._writing = threading.Lock()
        """Held while files are written, so that an older state never comes after a newer one."""
        self._dirty = True
        self._folder = tempfile.TemporaryDirectory(prefix="medsd-")
        self._tensorboard: Any = None
        self._tensorboard_written = 0.0
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    def log(self, record: dict[str, Any]) -> None:
        """One line of metrics.jsonl: `step`, `loss`, `grad_norm`, ... or `step`, `validation_loss` and
        `validation`, which says how that was taken.
        """
        shown = {
            k: record[k]
            for k in ("step", "loss", "images_per_second", "eta_seconds", "validation_loss", *VALIDATED)
            if k in record
        }
        with self._lock:
            self.records.append(record)
            self.progress.update(shown)
            self._dirty = True
        self._scalars(record)

    def update(self, **fields: Any) -> None:
        with self._lock:
            self.progress.update(fields)
            self._dirty = True

    def warn(self, text: str) -> None:
        with self._lock:
            self.progress["warnings"] = [*self.progress["warnings"], text]
            self._dirty = True
        self.say(text)

    def flush(self) -> None:
        """Writes what was logged so far, so that it outlasts a power cut, or raises as the store does."""
        with self._lock:
            self._dirty = True
        self._write(tensorboard=False)
        self.output.sync([METRICS])

    def close(self, state: str) -> None:
        """Writes all that is left; `state` is finished, interrupted or failed."""
        self.update(state=state)
        self._ended.set()
        self._thread.join()
        if self._tensorboard is not None:
            self._tensorboard.close()
        with_retries(self._write_all)
        self._folder.cleanup()

    def _write_all(self) -> None:
        self._dirty = True
        self._write(tensorboard=True)

    def _run(self) -> None:
        while not self._ended.wait(WRITE_EVERY_S):
            try:
                self._write(tensorboard=time.monotonic() - self._tensorboard_written > TENSORBOARD_EVERY_S)
                self.stop_requested = self.stop_requested or self.output.exists(STOP)
            except Exception as error:
                # The store may answer again; what was not written is written then, or fails in `close`.
                self._dirty = True
                if isinstance(error, RefusedError):
                    self.say(f"the run's records are not written: {error}")

    def _write(self, tensorboard: bool) -> None:
        with self._writing:
            self._write_in_turn(tensorboard)

    def _write_in_turn(self, tensorboard: bool) -> None:
        with self._lock:
            if not self._dirty:
                return
            self._dirty = False
            self.progress["lastUpdateTime"] = now()
            metrics = "".join(json.dumps(record) + "\n" for record in self.records)
            progress = dict(self.progress)
        self.output.write(METRICS, metrics.encode())
        self.output.write_json(PROGRESS, progress)
        if tensorboard and self._tensorboard is not None:
            self._tensorboard.flush()
            for path in Path(self._folder.name).iterdir():
                self.output.upload(path, f"{TENSORBOARD}/{path.name}")
            self._tensorboard_written = time.monotonic()

    def _scalars(self, record: dict[str, Any]) -> None:
        if self._tensorboard is None:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(self._folder.name)
        for name, value in record.items():
            if name == "learning_rates":
                for component, rate in value.items():
                    self._tensorboard.add_scalar(f"learning_rate/{component}", rate, record["step"])
            elif name not in ("step", "eta_seconds", "validation"):
                self._tensorboard.add_scalar(name, value, record["step"])


def _taken_over(record: dict[str, Any]) -> dict[str, Any]:
    """A record of before. The validation loss of an earlier version gets a name of its own, as it is another
    figure.
    """
    if "validation_loss" not in record or record.get("validation") == VALIDATION:
        return record
    return {"validation_loss_1" if name == "validation_loss" else name: v for name, v in record.items()}


def add_warning(output: Storage, total: int, text: str) -> None:
    """Adds a warning to progress.json while no worker is there to write it; the next Reporter takes it over.

    `total` is the run's number of steps, for a run that no worker has begun yet.
    """
    progress = {"step": 0, "total": total, "warnings": []} | read_progress(output)
    warnings = [*progress["warnings"], text]
    output.write_json(
        PROGRESS, progress | {"state": "running", "warnings": warnings, "lastUpdateTime": now()}
    )
