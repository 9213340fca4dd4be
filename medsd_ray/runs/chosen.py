"""Which checkpoint of a run is used: the one place that decides it.

Each checkpoint says the figures that were taken of it. While a run is trained, its writer chooses among them
by `checkpoint.select` and writes best.json; the chosen one is kept beside the newest. Whoever takes a run's
output as a model gets the chosen one, and the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from medsd_ray.errors import InputError, RefusedError, UnreachableError
from medsd_ray.runs.checkpoints import (
    VALIDATION,
    check_files,
    describe_checkpoint,
    newest_complete,
    read_best,
    run_of,
    saved_steps,
)
from medsd_ray.runs.names import BEST_CHECKPOINT, CHECKPOINT, checkpoint_folder
from medsd_ray.runs.notices import warn_once
from medsd_ray.spec.training import Select
from medsd_ray.storage import Storage, open_storage

Figures = Mapping[str, float]
"""What was measured of a checkpoint, by name."""
LAST = "last"
WORDS = {"validation_loss": "the lowest validation loss"}
"""What it is to be the best by a figure, in the order in which they decide where a run does not say."""
NEWEST, NAMED = "the newest", "asked for by name"


@dataclass(frozen=True)
class Choice:
    """A run's chosen checkpoint: its step, by which figure with which value (none: the last), and why, in
    words.
    """

    step: int
    figure: str | None
    value: float | None
    why: str


def figures_of(description: Mapping[str, Any]) -> dict[str, float]:
    """What a checkpoint.json says was measured. A validation loss of another kind than today's counts as
    none.
    """
    loss = description.get("validation_loss")
    if description.get("validation") != VALIDATION or not isinstance(loss, float) or not math.isfinite(loss):
        return {}
    return {"validation_loss": loss}


def choose(figures: Mapping[int, Figures], select: Select | None) -> Choice:
    """Chooses one of a run's checkpoints.

    The order is total, so that a checkpoint which another beats need not be kept: it is never chosen later.

    Args:
        figures: Of each complete checkpoint, by its step; at least one.
        select: What decides; where None, the first figure of WORDS that a checkpoint has.
    """
    last = max(figures)
    measured = {figure for values in figures.values() for figure in values}
    figure = select.figure if select else next((f for f in WORDS if f in measured), LAST)
    had = {step: values[figure] for step, values in figures.items() if figure in values}
    if not had:
        why = "the last" if figure == LAST or select is None else f"the last, as no checkpoint has a {figure}"
        return Choice(last, None, None, why)
    step = min(had, key=lambda step: (had[step], step))
    return Choice(step, figure, had[step], f"{WORDS[figure]}, {had[step]:.5g}")


def read_figures(output: Storage, steps: Iterable[int]) -> dict[int, dict[str, float]]:
    """What the checkpoints of these steps say was measured of them; nothing of a damaged one."""
    found = {}
    for step in steps:
        try:
            found[step] = figures_of(output.child(checkpoint_folder(step)).read_json(CHECKPOINT))
        except (RefusedError, UnreachableError):
            raise
        except (InputError, FileNotFoundError, ValueError):
            found[step] = {}
    return found


def chosen_checkpoint(output: Storage) -> Storage | None:
    """The checkpoint of a run that is used: the chosen one or, where none was chosen, as by earlier versions,
    the newest complete one; None where there is none.

    Where the chosen one is damaged or gone, the newest is taken, which is said on standard error.
    """
    best = read_best(output) or {}
    step, why = best.get("step"), best.get("why")
    if isinstance(step, int) and isinstance(why, str):
        try:
            store = output.child(checkpoint_folder(step))
            if store.complete() is None:
                raise FileNotFoundError(store.url)
            return check_files(store)
        except (RefusedError, UnreachableError):
            raise
        except (InputError, FileNotFoundError) as error:
            warn_once(f"the chosen checkpoint, of step {step}, is left aside for the newest: {error}")
    return newest_complete(output)


def about_checkpoint(checkpoint: Storage, address: str) -> dict[str, Any]:
    """`step` of the checkpoint that stands for a model's address, and `why` that one, in words."""
    step = describe_checkpoint(checkpoint).get("step")
    if open_storage(address).exists(CHECKPOINT):
        return {"step": step, "why": NAMED}
    best = read_best(run_of(checkpoint)) or {}
    chosen = best.get("step") == step and isinstance(best.get("why"), str)
    return {"step": step, "why": best["why"] if chosen else NEWEST}


def checkpoint_address(run: str, last: bool, step: int | None) -> str:
    """The address of a run's last checkpoint, or of that of a step; the run's own, which stands for the
    chosen one, where neither is asked for.

    Raises:
        InputError: Both are asked for, there is no run, or it has no such checkpoint.
    """
    if step is None and not last:
        return run
    if step is not None and last:
        raise InputError("give either --last or --step, not both")
    steps = saved_steps(open_storage(run))[0]
    if not steps:
        raise InputError(f"{run}: no complete checkpoint here; --last and --step are of a run's output")
    if step is not None and step not in steps:
        there = ", ".join(map(str, steps))
        raise InputError(f"{run}: no complete checkpoint of step {step}; choose from {there}")
    return f"{run.rstrip('/')}/{checkpoint_folder(steps[-1] if step is None else step)}"


def write_choice(output: Storage, choice: Choice, figures: Figures) -> None:
    """best.json: the choice, and the validation loss of what was chosen."""
    loss = figures.get("validation_loss")
    about = {"figure": choice.figure, "value": choice.value, "why": choice.why}
    validated = {} if loss is None else {"validation_loss": loss, "validation": VALIDATION}
    output.write_json(BEST_CHECKPOINT, {"step": choice.step, **validated, **about})
