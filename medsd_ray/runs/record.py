"""What a finished run says of itself, for those who report on it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from medsd_ray.errors import InputError
from medsd_ray.storage import open_storage


@dataclass(frozen=True)
class RunRecord:
    """What a training run left beside its checkpoints; empty where no run was given."""

    url: str | None = None
    metrics: list[dict] = field(default_factory=list)  # lines of metrics.jsonl
    result: dict = field(default_factory=dict)
    spec: str = ""  # run.yaml
    manifest: dict = field(default_factory=dict)


def read_run(url: str | None) -> RunRecord:
    """Reads a run's output; a part that is not there (yet) stays empty. Raises InputError where there is no
    run at all.
    """
    if url is None:
        return RunRecord()
    store = open_storage(url)

    def text(key: str) -> str:
        try:
            return store.read(key).decode()
        except FileNotFoundError:
            return ""

    metrics, result, manifest = text("metrics.jsonl"), text("result.json"), text("manifest.json")
    if not (metrics or result):
        raise InputError(
            f"{url}: neither metrics.jsonl nor result.json here; give the output of `medsd train`"
        )
    try:
        lines = [json.loads(line) for line in metrics.splitlines() if line.strip()]
        return RunRecord(
            url, lines, json.loads(result or "{}"), text("run.yaml"), json.loads(manifest or "{}")
        )
    except ValueError as error:
        raise InputError(
            f"{url}: broken JSON in the run's record ({error}); train again or leave --run out"
        ) from error
