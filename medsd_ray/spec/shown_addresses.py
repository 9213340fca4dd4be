"""A run's values as they are shared: without this machine's folders, which may name a person or a patient."""

from __future__ import annotations

import copy
from typing import Any

from medsd_ray.addresses import shown
from medsd_ray.spec.tasks import TASKS

ADDRESSES = (
    *("model", "output", "data.train", "data.validation", "data.cache", "data.sources.shards", "prior.data"),
    "components.text_encoder.swap.model",
    *(f"{task}.network.weights" for task in TASKS),
)
"""The fields of a run that may be folders; of a list, those of each of its items."""


def without_local_paths(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a run, each absolute local path replaced by its last part."""
    found = copy.deepcopy(values)
    for path in ADDRESSES:
        _show(found, path.split("."))
    return found


def _show(inner: Any, path: list[str]) -> None:
    if isinstance(inner, list):
        for item in inner:
            _show(item, path)
    elif isinstance(inner, dict) and len(path) > 1:
        _show(inner.get(path[0]), path[1:])
    elif isinstance(inner, dict) and isinstance(inner.get(path[0]), str):
        inner[path[0]] = shown(inner[path[0]])
