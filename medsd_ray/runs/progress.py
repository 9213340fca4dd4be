"""How far a run is: readers of metrics.jsonl and progress.json, which training writes while it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pydantic_core import from_json

from medsd_ray.runs.names import METRICS, PROGRESS
from medsd_ray.storage import Storage

VALIDATED = {
    "validation_accuracy": "accuracy",
    "validation_auroc": "AUROC",
    "validation_dice": "Dice",
}
"""What validation measures of a task run beside the loss: names in metrics.jsonl, and in words."""


def latest_figures(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure of VALIDATED the last that the records have."""
    return {name: value for record in records for name, value in record.items() if name in VALIDATED}


def read_metrics(output: Storage, warn: Callable[[str], None] = lambda text: None) -> list[dict[str, Any]]:
    """The records of metrics.jsonl in order of their steps; none where there is no such file yet. Lines that
    are damaged are left out, and `warn` is told of them.
    """
    try:
        return read_records(output.read(METRICS), lambda text: warn(f"{output.url}/{METRICS}: {text}"))
    except FileNotFoundError:
        return []


def read_records(data: bytes, warn: Callable[[str], None] = lambda text: None) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; those that are no JSON objects with a step are left out, and `warn` is told
    how many.
    """
    lines = [line for line in data.splitlines() if line.strip()]
    try:
        found = from_json(b"[" + b",".join(lines) + b"]")
    except ValueError:  # one at a time, to lose no more than the broken one
        found = [_record(line) for line in lines]
    records = [
        record for record in found if isinstance(record, dict) and finite(record.get("step")) is not None
    ]
    if len(records) < len(lines):
        warn(f"{len(lines) - len(records)} of {len(lines)} lines are damaged and left out")
    return records


def _record(line: bytes) -> Any:
    try:
        return from_json(line)
    except ValueError:
        return None


def finite(value: Any) -> float | None:
    """The value where it is a finite number."""
    if type(value) is float or type(value) is int:  # as JSON has them; a bool is neither
        return value if math.isfinite(value) else None
    return None


def read_progress(output: Storage) -> dict[str, Any]:
    """What progress.json says of a run or a study; empty where there is none, or it is no JSON."""
    try:
        return output.read_json(PROGRESS)
    except (FileNotFoundError, ValueError):
        return {}
