"""A run on the terminal: its records as they come, and Ctrl-C as the wish to stop after a checkpoint."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from medsd_ray.console import Bar, clear, duration, stage
from medsd_ray.runs.progress import VALIDATED, read_metrics, read_progress
from medsd_ray.storage import Storage

RecordCallback = Callable[[dict[str, Any]], None]
"""Gets the records of metrics.jsonl, one at a time."""
SAME_STOP_S = 1.0
"""`ray job stop` sends SIGTERM to a job's process and to its children, who may pass it on: within this time
it is one wish.
"""


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """The first Ctrl-C (or SIGTERM, which `cli.main` turns into one) sets the event; a later one ends at
    once.
    """
    asked, first = threading.Event(), 0.0

    def handle(*_) -> None:
        nonlocal first
        if not asked.is_set():
            first = time.monotonic()
            asked.set()
        elif time.monotonic() - first > SAME_STOP_S:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGINT, handle)
    signal.pthread_sigmask(
        signal.SIG_UNBLOCK, {signal.SIGINT}
    )  # Ray starts its jobs with this signal blocked
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


class RecordPrinter:
    """Shows what is new in a run's records, or gives it to `on_record`: in a log a line each, on a terminal a
    bar with the newest, and a line for each validation.
    """

    def __init__(
        self, output: Storage, total: int, seen: int, workers: str, on_record: RecordCallback | None = None
    ):
        """`total` is the run's number of steps, `seen` that of the records that were there before, `workers`
        says how many of them are started, such as `2 workers`.
        """
        self.output, self.total, self.seen, self.workers = output, total, seen, workers
        self.on_record, self.quiet = on_record or self._show, on_record is not None
        self._warned: set[str] = set()
        self._bar: Bar | None = None
        self._up = False
        if not self.quiet:
            stage(f"starting {workers}")

    def close(self) -> None:
        """Leaves the terminal to what comes next."""
        if self._bar:
            self._bar.close()
        clear()

    def _show(self, record: dict[str, Any]) -> None:
        if "validation_loss" in record or not sys.stdout.isatty():
            print(line(record, self.total), flush=True)
            return
        self._bar = self._bar or Bar(self.total)
        self._bar.show(record["step"], short_line(record, self.total))

    def warn(self, text: str) -> None:
        """Prints a warning once."""
        if text not in self._warned:
            self._warned.add(text)
            print(f"warning: {text}", flush=True)

    def update(self, notices: Sequence[str] = ()) -> None:
        """Shows what is new, and of `notices`, which come past the store, those that are."""
        for text in notices:
            self.warn(text)
        try:
            progress = read_progress(self.output)
            records = read_metrics(self.output) if progress else []
        except Exception:  # the store may answer again at the next look
            return
        if not progress:
            return
        if not self.quiet and not self._up:
            self._up = True
            if len(records) <= self.seen:
                stage(f"{self.workers} up, first step")
        self.seen = min(self.seen, len(records))
        for record in records[self.seen :]:
            self.on_record(record)
        self.seen = len(records)
        for warning in progress.get("warnings", []):
            self.warn(warning)


def short_line(record: dict[str, Any], total: int) -> str:
    """What of a record stands beside a bar."""
    return (
        f"step {record['step']}/{total}  loss {record['loss']:.4f}  "
        f"{record['images_per_second']:.1f} images/s  {duration(record['eta_seconds'])} left"
    )


def line(record: dict[str, Any], total: int) -> str:
    """A record of metrics.jsonl as the terminal shows it; `total` is the run's number of steps."""
    head = f"step {record['step']:>{len(str(total))}}/{total}"
    if "validation_loss" in record:
        figures = [f"  {words} {record[name]:.4f}" for name, words in VALIDATED.items() if name in record]
        return f"{head}  validation loss {record['validation_loss']:.5f}{''.join(figures)}"
    rates = " ".join(f"{rate:.1e}" for rate in record["learning_rates"].values())
    return (
        f"{head}  loss {record['loss']:.4f}  grad norm {record['grad_norm']:.3g}  lr {rates}  "
        f"{record['images_per_second']:.1f} images/s  {duration(record['eta_seconds'])} left"
    )
