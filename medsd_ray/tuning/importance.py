"""Which dimensions of a study mattered, by Optuna's fANOVA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medsd_ray.spec.space import Combination
from medsd_ray.tuning.proposals import Value, label, optuna_study

if TYPE_CHECKING:
    from medsd_ray.spec.study import StudySpec

ENOUGH = 4
"""Trials from which on importance says anything."""


def importance(
    study: StudySpec, tried: Sequence[Combination], values: Sequence[float]
) -> tuple[dict[str, Value] | None, str | None]:
    """Dimension -> its share of the metric's variance by fANOVA (Hutter et al. 2014), over trials with a
    metric, and a reason for what is None: everything, or the dimensions that only some of the trials have.
    """
    import optuna

    if len(tried) < ENOUGH:
        return None, f"{len(tried)} trials have the metric, and importance needs {ENOUGH}"
    if len(set(values)) == 1:
        return None, "all trials have the same metric"
    everywhere = [path for path in study.space if all(path in combination for combination in tried)]
    varied = [path for path in everywhere if len({label(combination[path]) for combination in tried}) > 1]
    if not varied:
        return None, "no dimension has several values in all trials that have the metric"
    shares = optuna.importance.get_param_importances(
        optuna_study(study, tried, values),
        evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
        params=varied,
    )
    left = [path for path in study.space if path not in varied]
    reason = f"{', '.join(left)}: not in all trials, or with one value alone" if left else None
    return {path: float(shares[path]) if path in shares else None for path in study.space}, reason
