"""Population-based training (Jaderberg et al. 2017): a trial takes over another's checkpoint, with settings
of its own.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

from medsd_ray.runs.checkpoints import FOLDER, saved_steps, step_folder
from medsd_ray.spec.run import RunSpec
from medsd_ray.storage import Storage

DESCRIPTION = "checkpoint.json"


def fork(source: Storage, step: int, output: Storage) -> None:
    """Replaces the checkpoints of `output` by one of another run; nothing where that one is gone by now."""
    there = source.child(step_folder(step))
    if there.complete() is None:
        return
    with tempfile.TemporaryDirectory(prefix="medsd-") as folder:
        there.download_tree(Path(folder))
        output.delete("result.json")
        output.delete_tree(FOLDER)
        output.child(step_folder(step)).upload_tree(Path(folder))


def adopt(output: Storage, run: RunSpec) -> None:
    """Makes the complete checkpoints this run's: training goes on from them with its own settings."""
    spec = run.model_dump(mode="json")
    for step in saved_steps(output)[0]:
        store = output.child(step_folder(step))
        files, description = store.complete() or {}, store.read_json(DESCRIPTION)
        if description["spec"] == spec:
            continue
        data = json.dumps(description | {"spec": spec}).encode()
        store.delete("COMPLETE")
        store.write(DESCRIPTION, data)
        store.mark_complete(
            files | {DESCRIPTION: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
        )
