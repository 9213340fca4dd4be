"""What the trials say together: combinations with intervals over seeds, and the best one. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medsd_ray.evaluation.estimates import Estimate, mean_t
from medsd_ray.runs.names import BEST_RUN
from medsd_ray.spec import plan
from medsd_ray.spec.load import dump_run
from medsd_ray.tuning.importance import importance
from medsd_ray.tuning.proposals import Value

if TYPE_CHECKING:
    from medsd_ray.spec.study import StudySpec

Trial = dict[str, Any]
OVER = ("done", "stopped", "failed")
"""Of a trial that is not run again."""


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean and its 95% interval over seeds, by Student's t; no interval of one value, nor of equal ones."""
    found = mean_t(np.array(values, dtype=float)) if len(values) > 1 else None
    low, high = found.interval if isinstance(found, Estimate) else (None, None)
    return {"mean": found.value if found else values[0], "low": low, "high": high, "n": len(values)}


def metric_of(study: StudySpec, trial: Trial) -> Value:
    """A finished trial's value of the study's metric. Of a stopped one it is None: it was never judged."""
    return trial["metrics"].get(study.metric) if trial["status"] == "done" else None


def grouped(trials: Sequence[Trial]) -> list[list[Trial]]:
    """The trials of each combination, in the order in which they were planned."""
    found: list[list[Trial]] = []
    for trial in trials:
        same = next((group for group in found if group[0]["params"] == trial["params"]), None)
        if same is None:
            found.append([trial])
        else:
            same.append(trial)
    return found


def value_of(study: StudySpec, group: Sequence[Trial]) -> Value:
    """A combination's mean metric over its seeds."""
    values = [value for trial in group if (value := metric_of(study, trial)) is not None]
    return interval(values)["mean"] if values else None


def combinations(study: StudySpec, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Best first; those without the metric last. Metrics are of finished trials alone."""
    rows = []
    for group in grouped(trials):
        done = [trial for trial in group if trial["status"] == "done"]
        names = {name: None for trial in done for name in trial["metrics"]}
        known = {
            name: [v for trial in done if (v := trial["metrics"].get(name)) is not None] for name in names
        }
        rows.append(
            {
                "params": group[0]["params"],
                "components": group[0]["components"],
                "trials": [trial["id"] for trial in group],
                "metrics": {name: interval(values) for name, values in known.items() if values},
            }
        )
    return sorted(rows, key=lambda row: _rank(study, row["metrics"].get(study.metric, {}).get("mean")))


def _rank(study: StudySpec, value: Value) -> tuple[bool, float]:
    return value is None, 0.0 if value is None else value if study.direction == "min" else -value


def best(study: StudySpec, trials: Sequence[Trial]) -> dict[str, Any] | None:
    """The best seed of the best combination that trains something; None where none has the metric."""
    groups = [g for g in grouped(trials) if g[0]["run"] and value_of(study, g) is not None]
    if not groups:
        return None
    group = min(groups, key=lambda group: _rank(study, value_of(study, group)))
    trial = min(group, key=lambda trial: _rank(study, metric_of(study, trial)))
    run = plan.trial_run(study, trial["params"], trial["seed"], "best")
    assert run is not None
    return {
        "trial": trial["id"],
        "spec": run.model_copy(update={"output": f"{study.output}/best"}).model_dump(mode="json"),
        "insertion_accuracy": trial["metrics"].get("insertion_accuracy"),
        "metric": metric_of(study, trial),
    }


def summarise(
    study: StudySpec, trials: Sequence[Trial], state: str, seconds: float, versions: dict[str, Any]
) -> dict[str, Any]:
    """study.json."""
    judged = [trial for trial in trials if metric_of(study, trial) is not None]
    if state == "running":  # a matter of seconds with many trials, and this is written at each change of one
        weights, reason = None, "computed when the study ends"
    else:
        weights, reason = importance(
            study, [t["params"] for t in judged], [t["metrics"][study.metric] for t in judged]
        )
    found = best(study, trials)
    return {
        "name": study.name,
        "state": state,
        "metric": study.metric,
        "mode": study.direction,
        "trials": list(trials),
        "combinations": combinations(study, trials),
        "best": found,
        "best_run": BEST_RUN if found else None,
        "importance": weights,
        "importance_reason": reason,
        "versions": versions,
        "seconds": round(seconds, 1),
    }


def best_yaml(found: dict[str, Any], name: str) -> str:
    """The best run as a RUN.yaml that trains it anew."""
    from medsd_ray.spec.run import RunSpec

    words = f"# Trial {found['trial']} of the study {name}. To train it anew: medsd train {BEST_RUN}\n"
    return words + dump_run(RunSpec.model_validate(found["spec"]))
