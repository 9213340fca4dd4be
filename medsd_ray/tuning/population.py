"""Population-based training (Jaderberg et al. 2017): a trial takes over another's checkpoint, with settings
of its own.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from medsd_ray.errors import InputError, RefusedError, UnreachableError
from medsd_ray.runs.checkpoints import saved_steps
from medsd_ray.runs.names import (
    BEST_CHECKPOINT,
    CHECKPOINT,
    CHECKPOINTS,
    RESULT,
    checkpoint_folder,
    trial_folder,
)
from medsd_ray.spec.run import RunSpec
from medsd_ray.spec.shown_addresses import without_local_paths
from medsd_ray.storage import COMPLETE, Storage, entry_of_bytes, open_storage

NOTE = "medsd.json"
"""What Ray Tune is given for a checkpoint: the trial and the step, as the checkpoint itself is the run's."""


def take_over_checkpoint(run: RunSpec, store: Storage) -> None:
    """Before a trial of pbt trains: the checkpoint that Ray Tune gave it, which may be another trial's,
    becomes its own, and its settings those of `run`.
    """
    from ray import tune

    given = tune.get_checkpoint()
    output = open_storage(run.output)
    if given is not None:
        with given.as_directory() as folder:
            note = json.loads(Path(folder, NOTE).read_text())
        source = store.child(trial_folder(note["trial"]))
        if source.url != output.url:
            copy_checkpoint(source, note["step"], output)
    adopt_checkpoints(output, run)


def copy_checkpoint(source: Storage, step: int, output: Storage) -> None:
    """Replaces the checkpoints of `output` by one of another; nothing where that one is damaged or gone."""
    there = source.child(checkpoint_folder(step))
    with tempfile.TemporaryDirectory(prefix="medsd-") as folder:
        try:
            if there.complete() is None:
                return
            there.download_tree(Path(folder))
        except (RefusedError, UnreachableError):
            raise
        except (InputError, FileNotFoundError):
            return
        output.delete(RESULT)
        output.delete(BEST_CHECKPOINT)
        output.delete_tree(CHECKPOINTS)
        output.child(checkpoint_folder(step)).upload_tree(Path(folder))


def adopt_checkpoints(output: Storage, run: RunSpec) -> None:
    """Makes the complete checkpoints this run's: training goes on from them with its own settings."""
    spec = without_local_paths(run.model_dump(mode="json"))
    for step in saved_steps(output)[0]:
        store = output.child(checkpoint_folder(step))
        try:
            files, description = store.complete() or {}, store.read_json(CHECKPOINT)
        except (RefusedError, UnreachableError):
            raise
        except (InputError, FileNotFoundError):  # a damaged one, which training leaves aside
            continue
        if description["spec"] == spec:
            continue
        data = json.dumps(description | {"spec": spec}).encode()
        store.delete(COMPLETE)
        store.write(CHECKPOINT, data)
        store.mark_complete(files | {CHECKPOINT: entry_of_bytes(data)})
