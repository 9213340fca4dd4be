"""metrics.jsonl -> curves that a page can draw: finite, short, and the same shape as the whole."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from medsd_ray.runs.progress import finite

LIMIT = 200
"""Points of a curve that the page gets at most."""

Curve = dict[str, Any]
"""`steps` and `values`, equally long, and `of`: how many points there were."""

NO_FIGURES = ("step", "validation")
"""What a record has beside its figures."""


def series(records: list[dict[str, Any]], names: tuple[str, ...] | None = None) -> dict[str, Curve]:
    """A curve, downsampled, for each figure in the records (or each of `names`); `learning_rates` become one
    each.
    """
    found: dict[str, tuple[list[float], list[float]]] = {}
    for record in records:
        flat = _flat(record) if names is None else record
        for name in flat if names is None else names:
            value = finite(flat.get(name))
            if value is not None:
                steps, values = found.setdefault(name, ([], []))
                steps.append(record["step"])
                values.append(value)
    return {name: downsample(steps, values) for name, (steps, values) in found.items()}


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    rates = record.get("learning_rates")
    named = {f"learning_rate/{name}": rate for name, rate in rates.items()} if isinstance(rates, dict) else {}
    return {name: value for name, value in record.items() if name not in NO_FIGURES} | named


def downsample(steps: list[float], values: list[float], limit: int = LIMIT) -> Curve:
    """At most `limit` points: of each of equally many neighbours the lowest and the highest, and both ends as
    they are.

    So a spike is never lost, which every n-th point or a mean would do.
    """
    of = len(values)
    if of > limit:
        inner = np.asarray(values[1:-1], dtype=float)
        edges = np.linspace(0, len(inner), (limit - 2) // 2 + 1).astype(int)
        kept = {0, of - 1}
        for start, end in pairwise(edges):
            part = inner[start:end]
            kept |= {1 + start + int(part.argmin()), 1 + start + int(part.argmax())}
        order = sorted(kept)
        steps, values = [steps[i] for i in order], [values[i] for i in order]
    return {"steps": steps, "values": [float(f"{value:.5g}") for value in values], "of": of}
