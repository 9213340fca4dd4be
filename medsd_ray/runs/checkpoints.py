"""Which checkpoints a run has, and what each says of itself. A reader of these needs no torch."""

from __future__ import annotations

import re

from medsd_ray.errors import InputError
from medsd_ray.runs.names import BEST_CHECKPOINT, CHECKPOINT, CHECKPOINTS, checkpoint_folder
from medsd_ray.storage import COMPLETE, Storage

FORMAT = "medsd-checkpoint/1"
"""The value of `format` in checkpoint.json. A reader refuses any other."""


def saved_steps(output: Storage) -> tuple[list[int], list[int]]:
    """Steps of the complete checkpoints of a run, and of those that are not complete; both sorted."""
    complete, seen = set(), set()
    for key in output.list(f"{CHECKPOINTS}/"):
        if match := re.match(rf"{CHECKPOINTS}/step-(\d+)/(.*)", key):
            seen.add(int(match[1]))
            if match[2] == COMPLETE:
                complete.add(int(match[1]))
    return sorted(complete), sorted(seen - complete)


def newest_complete(output: Storage) -> Storage | None:
    """The newest complete checkpoint of a run; None where it has none."""
    complete, _ = saved_steps(output)
    return output.child(checkpoint_folder(complete[-1])) if complete else None


def read_best(output: Storage) -> dict | None:
    """What best.json says: `step` and `validation_loss`; None where there is none, or it is no JSON."""
    try:
        return output.read_json(BEST_CHECKPOINT)
    except (FileNotFoundError, ValueError):
        return None


def describe_checkpoint(store: Storage) -> dict:
    """What checkpoint.json says of the checkpoint at `store`.

    Raises:
        InputError: There is no checkpoint, or its description is damaged.
    """
    try:
        description = store.read_json(CHECKPOINT)
        if not isinstance(description["model"], str):
            raise TypeError
    except FileNotFoundError as error:
        raise InputError(
            f"{store.url}: no {CHECKPOINT} here; give a run's output or one of its checkpoints"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{store.url}/{CHECKPOINT} is damaged; use another checkpoint") from error
    return description


def trained(description: dict) -> dict[str, str]:
    """Component -> method of those that a checkpoint's run trained, from its checkpoint.json."""
    return {name: method for name, method in description["components"].items() if method != "frozen"}
