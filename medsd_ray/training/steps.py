"""Where a run's checkpoints are. Only names: a reader of these needs no torch."""

from __future__ import annotations

import re

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
