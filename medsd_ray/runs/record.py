"""All that a run says of itself beside its checkpoints, for those who report on it."""

from __future__ import annotations

from dataclasses import dataclass, field

from medsd_ray.documents import json_object
from medsd_ray.errors import InputError
from medsd_ray.runs.names import MANIFEST, METRICS, RESULT, RUN_SPEC
from medsd_ray.storage import open_storage


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
        The record, in which a part that is not there (yet) is empty.

    Raises:
        InputError: There is no run at `url`, or its JSON is broken.
    """
    if url is None:
        return RunRecord()
    store = open_storage(url)

    def text(key: str) -> str:
        try:
            return store.read(key).decode()
        except FileNotFoundError:
            return ""

    metrics, result, manifest = text(METRICS), text(RESULT), text(MANIFEST)
    if not (metrics or result):
        raise InputError(f"{url}: neither {METRICS} nor {RESULT} here; give the output of `medsd train`")
    try:
        lines = [json_object(line) for line in metrics.splitlines() if line.strip()]
        result, manifest = json_object(result or "{}"), json_object(manifest or "{}")
        return RunRecord(url, lines, result, text(RUN_SPEC), manifest)
    except ValueError as error:
        raise InputError(
            f"{url}: broken JSON in the run's record ({error}); train again or leave --run out"
        ) from error
