"""What a run's output says of the run before its first step: run.yaml and manifest.json."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medsd_ray.runs.names import MANIFEST, PROGRESS, RUN_SPEC, STOP
from medsd_ray.spec.conditions import CONDITIONS
from medsd_ray.spec.load import dump_run
from medsd_ray.spec.run import RunSpec
from medsd_ray.storage import Storage
from medsd_ray.training.checked_run import CheckedRun

PACKAGES = ("medsd", "torch", "ray", "deepspeed", "diffusers", "transformers", "numpy")


def write_run(output: Storage, run: RunSpec, checked: CheckedRun) -> None:
    """Writes what is run, and removes what an earlier start of the same run said of its progress.

    `run` is as the user wrote it: with relative folders, a folder with runs and models can be moved.
    """
    output.write(RUN_SPEC, dump_run(run).encode())
    output.write_json(MANIFEST, manifest(run, checked))
    for stale in (STOP, PROGRESS):
        output.delete(stale)


def manifest(run: RunSpec, checked: CheckedRun) -> dict[str, Any]:
    """What was run: on which data, model, code and versions."""
    return {
        "spec": run.model_dump(mode="json"),
        "data": _data(run, checked),
        "conditions": _conditions(checked),
        "data_sha256": checked.fingerprints["data"],
        "model_sha256": checked.fingerprints.get("model"),
        "parameters": dataclasses.asdict(checked.size) | {"loaded": checked.loaded or None},
        "chosen": {
            "use_gpu": checked.run.resources.use_gpu,
            "precision": checked.run.training.precision,
            "compile": checked.run.training.compile,
            "zero_stage": checked.run.training.zero_stage,
            "reasons": checked.reasons,
        },
        "code_sha256": code_fingerprint(),
        "image_digest": os.environ.get("MEDSD_IMAGE_DIGEST"),
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
    }


def _data(run: RunSpec, checked: CheckedRun) -> list[dict[str, Any]]:
    """The sources, by the addresses that the user wrote, with the samples of each and its share of all."""
    mix = checked.train
    return [
        {
            "shards": named.shards,
            "split": source.split,
            "domain": source.domain,
            "kind": source.kind,
            "weight": source.weight,
            "samples": source.samples,
            "share": round(float(share), 6),
        }
        for named, source, share in zip(run.data.all_sources.values(), mix.sources, mix.shares, strict=True)
    ]


def _conditions(checked: CheckedRun) -> dict[str, Any]:
    """Each condition with the values that a category has, and how many training samples have it."""
    if not (found := checked.conditions):
        return {}
    known = found.settings.model_dump(mode="json")[CONDITIONS]
    return {name: one | {"samples": found.samples[name]} for name, one in known.items()}


def code_fingerprint() -> str:
    """SHA-256 over the package's Python files, the same wherever it is installed."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
