"""All that a run says of itself beside its checkpoints, for those who report on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from medsd_ray.errors import InputError
from medsd_ray.runs.names import MANIFEST, METRICS, RESULT, RUN_SPEC
from medsd_ray.runs.notices import warn_once
from medsd_ray.runs.progress import read_metrics
from medsd_ray.storage import Storage, open_storage


@dataclass(frozen=True)
class RunRecord:
    """What a training run left beside its checkpoints; empty where no run was given."""

    url: str | None = None
    """Of the run's output."""
    metrics: list[dict] = field(default_factory=list)
    """The records of metrics.jsonl."""
    result: dict = field(default_factory=dict)
    """What result.json says."""
    spec: str = ""
    """The text of run.yaml."""
    manifest: dict = field(default_factory=dict)
    """What manifest.json says."""


def read_run(url: str | None) -> RunRecord:
    """Reads a run's output.

    Args:
        url: The run's output; None for no run.

    Returns:
        The record, in which a part that is not there (yet), or is damaged, is empty. What is damaged is said
        on standard error.

    Raises:
        InputError: There is no run at `url`.
    """
    if url is None:
        return RunRecord()
    store = open_storage(url)
    if not (store.exists(METRICS) or store.exists(RESULT)):
        raise InputError(f"{url}: neither {METRICS} nor {RESULT} here; give the output of `medsd train`")
    return RunRecord(
        url,
        read_metrics(store, warn_once),
        _whole(store, RESULT),
        _text(store, RUN_SPEC),
        _whole(store, MANIFEST),
    )


def _whole(store: Storage, key: str) -> dict[str, Any]:
    """A JSON file's object; empty where it is not there, or damaged, which is said."""
    try:
        return store.read_json(key)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        warn_once(f"{error}; it is left out")
        return {}


def _text(store: Storage, key: str) -> str:
    try:
        return store.read(key).decode(errors="replace")
    except FileNotFoundError:
        return ""
