"""Which combination is tried next, by Optuna's samplers. A function of the study and of what was found so
far, so that a resumed search goes on as one that was never interrupted.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medsd_ray.spec.space import Combination, combinations, fill

if TYPE_CHECKING:
    import optuna

    from medsd_ray.spec.space import Dimension
    from medsd_ray.spec.study import StudySpec

Value = float | None
ATTEMPTS = 50
"""Draws before a new combination is looked for in order."""


def count_combinations(study: StudySpec) -> int:
    """Combinations that the search will try at most, the budget aside."""
    finite = all(dimension.choice is not None for dimension in study.space.values())
    wanted = study.search.num_samples
    if not finite:
        return wanted or 0
    size = sum(1 for _ in combinations(study.space))
    return size if wanted is None else min(wanted, size)


def propose(study: StudySpec, earlier: Sequence[Combination], values: Sequence[Value]) -> Combination | None:
    """The combination after the `earlier` ones; None where the search is at its end. `values` has each one's
    metric, None where it failed, was stopped or is not known yet.
    """
    number = len(earlier)
    if number >= count_combinations(study):
        return None
    if study.search.searcher == "grid":
        return next(itertools.islice(combinations(study.space), number, None))
    for attempt in range(ATTEMPTS):
        found = _drawn(study, f"{study.search.seed}/{number}/{attempt}", earlier, values)
        if found not in earlier:
            return found
    return next(one for one in combinations(study.space) if one not in earlier)


def planned_combinations(study: StudySpec) -> list[Combination] | None:
    """All combinations in order, where what was found has no say in them; None for tpe."""
    if study.search.searcher == "tpe":
        return None
    found: list[Combination] = []
    while (one := propose(study, found, [None] * len(found))) is not None:
        found.append(one)
    return found


def _drawn(
    study: StudySpec, key: str, earlier: Sequence[Combination], values: Sequence[Value]
) -> Combination:
    import optuna

    seed = zlib.crc32(key.encode())
    random = study.search.searcher == "random"
    sampler = optuna.samplers.RandomSampler(seed) if random else optuna.samplers.TPESampler(seed=seed)
    trial = (
        optuna_study(study, [], [], sampler) if random else optuna_study(study, earlier, values, sampler)
    ).ask()
    return fill(study.space, lambda path, dimension: _ask(trial, path, dimension))


def _ask(trial: optuna.Trial, path: str, dimension: Dimension) -> Any:
    if dimension.choice is not None:
        return json.loads(trial.suggest_categorical(path, [label(value) for value in dimension.choice]))
    low, high = dimension.bounds
    return trial.suggest_float(path, low, high, log=dimension.loguniform is not None)


def label(value: Any) -> str:
    """A choice as Optuna's categories have it: a choice may be a mapping, which Optuna does not take."""
    return json.dumps(value, sort_keys=True)


def optuna_study(
    study: StudySpec, tried: Sequence[Combination], values: Sequence[Value], sampler=None
) -> optuna.Study:
    """An Optuna study of this space that has tried these combinations, with each one's metric, None where it
    has none.
    """
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = optuna.create_study(
        direction="minimize" if study.direction == "min" else "maximize", sampler=sampler
    )
    known: dict[str, Any] = {
        path: CategoricalDistribution([label(value) for value in d.choice])
        if d.choice is not None
        else FloatDistribution(*d.bounds, log=d.loguniform is not None)
        for path, d in study.space.items()
    }
    for combination, value in zip(tried, values, strict=True):
        labels = {
            path: label(v) if study.space[path].choice is not None else v for path, v in combination.items()
        }
        state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
        distributions = {path: known[path] for path in labels}
        found.add_trial(
            optuna.trial.create_trial(params=labels, distributions=distributions, value=value, state=state)
        )
    return found
