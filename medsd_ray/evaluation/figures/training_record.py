"""How fast a training run was and how much memory its optimizer took, as the run recorded it."""

from __future__ import annotations

from typing import Any

from medsd_ray.evaluation.estimates import Missing, put
from medsd_ray.runs.record import RunRecord


def train_section(record: RunRecord) -> dict:
    """Speed and memory as the run recorded them."""
    section: dict[str, Any] = {}
    missing = Missing(
        "no training run was given (--run)" if record.url is None else "the run's result.json does not say"
    )
    for name in ("images_per_second", "optimizer_bytes_per_worker", "world_size", "zero_stage"):
        put(section, name, missing if record.result.get(name) is None else record.result[name])
    return section
