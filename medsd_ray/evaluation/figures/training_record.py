"""How fast a training run was, how much memory its optimizer took, and in which precision it computed, as the
run recorded it.
"""

from __future__ import annotations

from typing import Any

from medsd_ray.evaluation.estimates import Missing, put
from medsd_ray.runs.record import RunRecord

SHOWN = (
    "images_per_second", "optimizer_bytes_per_worker", "world_size", "zero_stage", "device", "precision",
    "compute_dtype", "compile", "cuda_graph",
)  # fmt: skip
"""Of result.json: how fast it was, and what was in effect."""


def train_section(record: RunRecord) -> dict:
    """Speed and memory as the run recorded them."""
    section: dict[str, Any] = {}
    missing = Missing(
        "no training run was given (--run)" if record.url is None else "the run's result.json does not say"
    )
    for name in SHOWN:
        value = record.result.get(name)
        if isinstance(value, dict):  # a component's own
            value = ", ".join(f"{component}: {own}" for component, own in value.items())
        put(section, name, missing if value is None else value)
    return section
