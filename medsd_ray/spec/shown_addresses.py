"""A run's values as they are shared: without this machine's folders, which may name a person or a patient."""

from __future__ import annotations

import copy
from typing import Any

from medsd_ray.addresses import shown
from medsd_ray.spec.tasks import TASKS

ADDRESSES = (
    *("model", "output", "data.train", "data.validation", "data.cache", "prior.data"),
    "components.text_encoder.swap.model",
    *(f"{task}.network.weights" for task in TASKS),
)
"""The fields of a run that may be folders."""


def without_local_paths(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a run, each absolute local path replaced by its last part."""
    found = copy.deepcopy(values)
    for path in ADDRESSES:
        *parents, last = path.split(".")
        inner: Any = found
        for parent in parents:
            inner = inner.get(parent) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get(last), str):
            inner[last] = shown(inner[last])
    return found
