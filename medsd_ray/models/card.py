"""What the model cards of every export say alike: the run's words and where its weights come from."""

from __future__ import annotations

from typing import Any

from medsd_ray.documents import to_yaml
from medsd_ray.runs.checkpoints import run_of
from medsd_ray.runs.names import MANIFEST
from medsd_ray.storage import Storage


def named(description: dict[str, Any]) -> str:
    """What a checkpoint's run started from: its name, and its fingerprint, which is the same wherever it
    lies.
    """
    fingerprint = description.get("fingerprints", {}).get("model")
    return f"`{description['model']}`" + (f" (fingerprint `{fingerprint}`)" if fingerprint else "")


def origin(spec: dict[str, Any], manifest: dict[str, Any]) -> str:
    """The lines of a card on the data and the code of a run."""
    given = spec.get("data", {})
    sources = [source["shards"] for source in given.get("sources") or []]
    data = "`, `".join(sources or [given.get("train", "not recorded")])
    return (
        f"- Data: `{data}`, SHA-256 `{manifest.get('data_sha256', 'not recorded')}`\n"
        f"- Code: SHA-256 `{manifest.get('code_sha256', 'not recorded')}`"
    )


def as_yaml(spec: dict[str, Any]) -> str:
    """A run's spec as a block of a card."""
    return f"```yaml\n{to_yaml(spec)}```" if spec else "Its spec was not recorded."


def manifest_of(checkpoint: Storage) -> dict[str, Any]:
    """manifest.json of the run that a checkpoint belongs to; empty where the checkpoint was moved out of its
    run.
    """
    try:
        return run_of(checkpoint).read_json(MANIFEST)
    except (FileNotFoundError, ValueError):
        return {}
