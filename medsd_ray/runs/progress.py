"""What a run says about itself while it runs: metrics.jsonl, progress.json, TensorBoard; and the terminal's
line of it.

Worker 0 writes to the run's storage from a thread of its own, so that a slow store does not slow training;
the driver reads the same files. The same thread looks for the `stop` flag that asks for a checkpoint and an
end.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from medsd_ray.storage import Storage

METRICS, PROGRESS, STOP = "metrics.jsonl", "progress.json", "stop"


def read_metrics(output: Storage) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; none where there is none yet."""
    try:
        return [json.loads(line) for line in output.read(METRICS).decode().splitlines()]
    except FileNotFoundError:
        return []


def read_progress(output: Storage) -> dict[str, Any]:
    """What progress.json says; empty where there is none."""
    try:
        return output.read_json(PROGRESS)
    except (FileNotFoundError, ValueError):
        return {}


def add_warning(output: Storage, total: int, text: str) -> None:
    """The driver's own warning, while no worker is there to write; the next Reporter takes it over."""
    progress = {"step": 0, "total": total, "warnings": []} | read_progress(output)
    warnings = [*progress["warnings"], text]
    output.write_json(
        PROGRESS, progress | {"state": "running", "warnings": warnings, "lastUpdateTime": now()}
    )


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def duration(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"


def line(record: dict[str, Any], total: int) -> str:
    """A metrics record as the terminal shows it."""
    head = f"step {record['step']:>{len(str(total))}}/{total}"
    if "validation_loss" in record:
        return f"{head}  validation loss {record['validation_loss']:.5f}"
    rates = " ".join(f"{rate:.1e}" for rate in record["learning_rates"].values())
    return (
        f"{head}  loss {record['loss']:.4f}  grad norm {record['grad_norm']:.3g}  lr {rates}  "
        f"{record['images_per_second']:.1f} images/s  {duration(record['eta_seconds'])} left"
    )
