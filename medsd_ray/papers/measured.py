"""What the steps of a paper measured, read from the studies and reports that they left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medsd_ray.evaluation.estimates import Missing
from medsd_ray.runs.names import STUDY
from medsd_ray.spec.paper import Expected, Measurement
from medsd_ray.spec.space import short
from medsd_ray.storage import Storage


@dataclass(frozen=True)
class Measured:
    """A figure. `by_seed` has a study's value of each seed, `interval` a report's own 95% interval; `of` says
    in words of what it is.
    """

    value: float
    of: str
    by_seed: Mapping[int, float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    count: int | None = None


def measure(output: Storage, wanted: Measurement | float, direction: Expected) -> Measured | Missing:
    """A figure, or why there is none. Of several combinations that `pick: best` takes, the one whose mean is
    the highest or lowest, as `direction` says.
    """
    if not isinstance(wanted, Measurement):
        return Measured(float(wanted), "a fixed number")
    name = f"{wanted.study}/{STUDY}" if wanted.study is not None else str(wanted.report)
    try:
        found = output.read_json(name)
    except FileNotFoundError:
        return Missing(f"there is no {name}")
    if wanted.study is None:
        return _of_report(found, wanted)
    return _of_study(found["trials"], wanted, direction)


def _of_report(report: Any, wanted: Measurement) -> Measured | Missing:
    value = _at(report, wanted.figure)
    if not isinstance(value, int | float):
        why = _at(report, f"{wanted.figure}_reason")
        return Missing(f"{wanted.report} has no {wanted.figure}{f': {why}' if why else ''}")
    interval = _at(report, f"{wanted.figure}_interval")
    count = _at(report, wanted.count) if wanted.count else None
    return Measured(
        float(value), str(wanted.report), interval=tuple(interval) if interval else None, count=count
    )


def _at(value: Any, path: str) -> Any:
    """What a dotted path leads to; None where it leads nowhere."""
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _of_study(
    trials: Sequence[Mapping[str, Any]], wanted: Measurement, direction: Expected
) -> Measured | Missing:
    groups: dict[str, dict[int, float]] = {}
    for trial in trials:
        value = trial["metrics"].get(wanted.figure) if trial["status"] == "done" else None
        if value is not None and _matches(trial["params"], wanted.where):
            groups.setdefault(_words(trial["params"]), {})[trial["seed"]] = value
    if not groups:
        return Missing(f"no finished trial of {wanted.study} with {_words(wanted.where)} has {wanted.figure}")
    if len(groups) > 1 and wanted.pick is None:
        return Missing(f"{len(groups)} combinations of {wanted.study} have {_words(wanted.where)}")
    means = {of: sum(values.values()) / len(values) for of, values in groups.items()}
    best = (max if direction == "higher" else min)(means, key=lambda of: means[of])
    picked = f", the best of {len(groups)} by this figure" if wanted.pick else ""
    return Measured(means[best], f"{best}{picked}", groups[best], count=len(groups[best]))


def _matches(params: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    return all(name in params and short(params[name]) == short(value) for name, value in where.items())


def _words(params: Mapping[str, Any]) -> str:
    parts = (f"{name.removeprefix('components.')} {short(value)}" for name, value in params.items())
    return ", ".join(parts) or "the run as it is"
