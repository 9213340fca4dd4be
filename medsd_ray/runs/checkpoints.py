"""Which checkpoints a run has, and what each says of itself. A reader of these needs no torch."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from medsd_ray.addresses import is_absolute_path, path_of
from medsd_ray.documents import MOST_YAML_BYTES, parse_yaml
from medsd_ray.errors import InputError, RefusedError, UnreachableError
from medsd_ray.runs.checkpoint_schema import Description
from medsd_ray.runs.names import BEST_CHECKPOINT, CHECKPOINT, CHECKPOINTS, RUN_SPEC, checkpoint_folder
from medsd_ray.runs.notices import warn_once
from medsd_ray.schemas import first_fault
from medsd_ray.spec.tasks import TASKS
from medsd_ray.storage import COMPLETE, FolderStorage, Storage, open_storage

Checkpoint = TypeVar("Checkpoint")

FORMAT = "medsd-checkpoint/1"
"""The value of `format` in checkpoint.json. A reader refuses any other."""

VALIDATION = 2
"""How a validation loss was taken, the value of `validation` beside it. 1, which is not recorded, was of the
weights as they were trained, at timesteps drawn by the run's seed; 2 is of the weights that generation uses,
at timesteps that are the same in every run. Losses of two kinds are not compared.
"""


def saved_steps(output: Storage) -> tuple[list[int], list[int]]:
    """Steps of the complete checkpoints of a run, and of those that are not complete; both sorted."""
    complete, seen = set(), set()
    for key in output.list(f"{CHECKPOINTS}/"):
        if match := re.match(rf"{CHECKPOINTS}/step-(\d+)/(.*)", key):
            seen.add(int(match[1]))
            if match[2] == COMPLETE:
                complete.add(int(match[1]))
    return sorted(complete), sorted(seen - complete)


def newest_usable(
    output: Storage, take: Callable[[Storage], Checkpoint], warn: Callable[[str], None]
) -> Checkpoint | None:
    """What `take` makes of a run's newest complete checkpoint; where it finds that one damaged, of the one
    before.

    Args:
        output: A run's output.
        take: Gets the checkpoint's own folder; raises InputError or FileNotFoundError where it is damaged.
        warn: Gets one line for each damaged checkpoint.

    Returns:
        None where the run has no complete checkpoint.

    Raises:
        InputError: All complete checkpoints are damaged, or the store gives nothing.
    """
    complete, _ = saved_steps(output)
    for step in reversed(complete):
        try:
            return take(output.child(checkpoint_folder(step)))
        except (RefusedError, UnreachableError):  # of the store; the checkpoint may be whole
            raise
        except (InputError, FileNotFoundError) as error:
            warn(f"the checkpoint of step {step} is damaged and left aside: {error}")
    if complete:
        raise InputError(f"{output.url}: every checkpoint is damaged; start again with another output")
    return None


def newest_complete(output: Storage) -> Storage | None:
    """The newest complete checkpoint of a run that shows no damage without its tensors being read; None where
    it has none.

    What is left aside is said on standard error, once a process. Where all are damaged it is the newest: who
    reads it says what is wrong.
    """
    damage: list[str] = []
    try:
        found = newest_usable(output, check_files, damage.append)
    except (RefusedError, UnreachableError):
        raise
    except InputError:
        return output.child(checkpoint_folder(saved_steps(output)[0][-1]))
    for text in damage:
        warn_once(text)
    return found


def check_files(checkpoint: Storage) -> Storage:
    """The same checkpoint. Raises InputError where its mark or description is damaged, or a file is gone or
    of another size than the mark says; these are what a power cut leaves.
    """
    there = checkpoint.level()[1]
    for name, entry in (checkpoint.complete() or {}).items():
        if name not in there:
            raise InputError(f"{checkpoint.url}: {name} is gone")
        if there[name].bytes != entry["bytes"]:
            raise InputError(
                f"{checkpoint.url}/{name}: {there[name].bytes} bytes, but {COMPLETE} says {entry['bytes']}"
            )
        if name == CHECKPOINT:
            checkpoint.read_json(name)
    return checkpoint


def read_best(output: Storage) -> dict | None:
    """What best.json says of the chosen checkpoint: `step`, `why` and more; None where there is none, or it
    is no JSON.
    """
    try:
        return output.read_json(BEST_CHECKPOINT)
    except (FileNotFoundError, ValueError):
        return None


def describe_checkpoint(store: Storage) -> dict:
    """What checkpoint.json says of the checkpoint at `store`.

    It names a model of this machine by its last part; the run's own run.yaml, which stays with the run, says
    where that is.

    Raises:
        InputError: There is no checkpoint, or its description is damaged.
    """
    try:
        description = store.read_json(CHECKPOINT)
    except FileNotFoundError as error:
        raise InputError(
            f"{store.url}: no {CHECKPOINT} here; give a run's output or one of its checkpoints"
        ) from error
    except ValueError as error:
        raise InputError(f"{store.url}/{CHECKPOINT} is damaged; use another checkpoint") from error
    check_description(description, f"{store.url}/{CHECKPOINT}")
    if absent := {"model", "components"} - description.keys():
        raise InputError(f"{store.url}/{CHECKPOINT} is damaged (no {min(absent)}); use another checkpoint")
    return _with_whole_addresses(description, store)


def check_description(description: dict, where: str) -> None:
    """Raises InputError, with `where` in it, for what is no checkpoint.json."""
    if fault := first_fault(Description, description):
        raise InputError(f"{where} is damaged ({fault}); use another checkpoint")


def _with_whole_addresses(description: dict, store: Storage) -> dict:
    """The description with the addresses of run.yaml in the place of last parts. Whether what lies there now
    is what the run was trained on is told by the fingerprints.
    """
    found = description | {"spec": copy.deepcopy(description.get("spec") or {})}
    try:
        swap = found["spec"].get("components", {}).get("text_encoder", {}).get("swap") or {}
        if all("/" in one for one in (found["model"], swap.get("model", "/"))):  # neither is a last part
            return description
        run = parse_yaml(run_of(store).read(RUN_SPEC, MOST_YAML_BYTES))
        task = next((name for name in TASKS if run.get(name)), None)
        model = run[task]["network"].get("weights") if task else run["model"]
        if model and is_absolute_path(model):
            found["model"] = model
        if swap:
            swap["model"] = _near(run["components"]["text_encoder"]["swap"]["model"], store)
    except (OSError, AttributeError, KeyError, TypeError, InputError):
        return description  # it was copied out of its run: the names are looked for near it
    return found


def _near(address: str, checkpoint: Storage) -> str:
    """A relative path from the working directory or, where nothing is there, from the checkpoint upwards."""
    path = path_of(address)
    if isinstance(checkpoint, FolderStorage) and "://" not in address and not path.is_absolute():
        places = [Path.cwd(), *checkpoint.root.resolve().parents]
        return next((str(place / path) for place in places if (place / path).is_dir()), address)
    return address


def run_of(checkpoint: Storage) -> Storage:
    """The output of the run that a checkpoint lies in; any other place where it was copied out of it."""
    if isinstance(checkpoint, FolderStorage):
        return FolderStorage(checkpoint.root.resolve().parent.parent)
    return open_storage(checkpoint.url.rsplit("/", 2)[0])


def trained(description: dict) -> dict[str, str]:
    """Component -> method of those that a checkpoint's run trained, from its checkpoint.json."""
    return {name: method for name, method in description["components"].items() if method != "frozen"}


def task_of(description: dict) -> str | None:
    """The task that a checkpoint's run trained, from its checkpoint.json; None where that is no task run."""
    return next((task for task in TASKS if task in description["components"]), None)
