"""How far a run is: readers of metrics.jsonl and progress.json, which training writes while it goes on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from medsd_ray.documents import json_object
from medsd_ray.runs.names import METRICS, PROGRESS
from medsd_ray.storage import Storage


def read_metrics(output: Storage) -> list[dict[str, Any]]:
    """The records of metrics.jsonl in order of their steps; none where there is no such file yet."""
    try:
        return [json_object(line) for line in output.read(METRICS).decode().splitlines()]
    except FileNotFoundError:
        return []


def read_progress(output: Storage) -> dict[str, Any]:
    """What progress.json says of a run or a study; empty where there is none, or it is no JSON."""
    try:
        return output.read_json(PROGRESS)
    except (FileNotFoundError, ValueError):
        return {}


def now() -> str:
    """The time of `lastUpdateTime` in progress.json: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
