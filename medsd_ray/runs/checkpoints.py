"""Where a run's checkpoints are. Only names: a reader of these needs no torch."""

from __future__ import annotations

import re

from medsd_ray.errors import InputError
from medsd_ray.storage import COMPLETE, Storage

FOLDER = "checkpoints"


def step_folder(step: int) -> str:
    return f"{FOLDER}/step-{step:08d}"


def saved_steps(output: Storage) -> tuple[list[int], list[int]]:
    """Steps of the complete checkpoints of a run, and of those that are not complete; both sorted."""
    complete, seen = set(), set()
    for key in output.list(f"{FOLDER}/"):
        if match := re.match(rf"{FOLDER}/step-(\d+)/(.*)", key):
            seen.add(int(match[1]))
            if match[2] == COMPLETE:
                complete.add(int(match[1]))
    return sorted(complete), sorted(seen - complete)


DESCRIPTION = "checkpoint.json"


def newest_complete(run_output: Storage) -> Storage | None:
    """The newest complete checkpoint of a run, or None."""
    complete, _ = saved_steps(run_output)
    return run_output.child(step_folder(complete[-1])) if complete else None


def describe_checkpoint(store: Storage) -> dict:
    """A checkpoint's checkpoint.json. Raises InputError where it is not one."""
    try:
        description = store.read_json("checkpoint.json")
        if not isinstance(description["model"], str):
            raise TypeError
    except FileNotFoundError as error:
        raise InputError(
            f"{store.url}: no checkpoint.json here; give a run's output or one of its checkpoints"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{store.url}/checkpoint.json is damaged; use another checkpoint") from error
    return description


def trained(description: dict) -> dict[str, str]:
    """Component -> method of those that a checkpoint's run trained, from its checkpoint.json."""
    return {name: method for name, method in description["components"].items() if method != "frozen"}
