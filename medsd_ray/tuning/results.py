"""What the trials say together: combinations with intervals over seeds, the best one, the table. Pure
functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from medsd_ray.runs.names import BEST_RUN, RUN_SPEC, trial_file
from medsd_ray.spec import plan
from medsd_ray.spec.components import COMPONENTS
from medsd_ray.spec.load import dump_run
from medsd_ray.spec.space import Combination, short
from medsd_ray.tuning.suggest import Value, importance

if TYPE_CHECKING:
    from medsd_ray.spec.study import StudySpec

Trial = dict[str, Any]
SHOWN = ("insertion_accuracy", "fid", "kid", "validation_loss")
OVER = ("done", "stopped", "failed")
"""Of a trial that is not run again."""


def new_trial(study: StudySpec, number: int, params: Combination, seed: int) -> Trial:
    """What trial.json says before the trial starts. `run` is null where U-Net and text encoder are frozen:
    the model is judged as it is.
    """
    name = f"{number:04d}"
    trained = plan.trial_run(study, params, seed, name) is not None
    return {
        "id": name, "params": params, "components": plan.methods(study, params), "seed": seed, "status": "pending",
        "error": None, "metrics": {}, "steps": 0, "seconds": 0.0, "run": trial_file(name, RUN_SPEC) if trained else None,
    }  # fmt: skip


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean and its 95% interval over seeds, by Student's t; no interval of one value."""
    from scipy.stats import t

    n, centre = len(values), mean(values)
    if n < 2:
        return {"mean": centre, "low": None, "high": None, "n": n}
    reach = float(t.ppf(0.975, n - 1)) * stdev(values) / math.sqrt(n)
    return {"mean": centre, "low": centre - reach, "high": centre + reach, "n": n}


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
    return mean(values) if values else None


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


def summary(
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


# --- the table


def table(study: StudySpec, trials: Sequence[Trial]) -> str:
    """Combinations x metrics as Markdown, best first."""
    by_id = {trial["id"]: trial for trial in trials}
    rows = combinations(study, trials)
    parts = [part for part in COMPONENTS if any(row["components"][part] != "frozen" for row in rows)]
    others = [path for path in study.space if path.removeprefix("components.") not in parts]
    metrics = [study.metric, *(name for name in SHOWN if name != study.metric)]
    lines = [[*parts, *others, *metrics, "trials", "steps", "minutes"]]
    for row in rows:
        group = [by_id[name] for name in row["trials"]]
        values = [shown(row["params"].get(path)) for path in others]
        figures = [_figure(row["metrics"].get(name)) for name in metrics]
        counts = [
            str(max(trial["steps"] for trial in group)),
            f"{sum(trial['seconds'] for trial in group) / 60:.1f}",
        ]
        lines.append(
            [*(row["components"][part] for part in parts), *values, *figures, _statuses(group), *counts]
        )
    return "\n".join(
        "| " + " | ".join(line) + " |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    )


def _statuses(group: Sequence[Trial]) -> str:
    names = [trial["status"] for trial in group]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def shown(value: Any) -> str:
    value = short(value)
    return (
        "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "/")
    )


def _figure(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    spread = "" if found["low"] is None else f" ({found['low']:.4g} to {found['high']:.4g})"
    return f"{found['mean']:.4g}{spread}"


def report(study: StudySpec, found: dict[str, Any]) -> str:
    """study.md: the table, the best run, and what mattered."""
    lines = [
        f"# {study.name}",
        "",
        f"Best first by {study.metric} ({study.direction}); 95% intervals over seeds.",
        "",
    ]
    lines += [table(study, found["trials"]), ""]
    known = [
        right for trial in found["trials"] if (right := trial["metrics"].get("detector_accuracy")) is not None
    ]
    if known:  # one detector judges all trials
        lines += [
            f"insertion_accuracy is by a detector that is itself right on {known[0]:.1%} of the real held-out images.",
            "",
        ]
    if found["best"]:
        lines.append(
            f"Best: trial {found['best']['trial']}, {study.metric} {found['best']['metric']:.4g}; its run is {BEST_RUN}."
        )
    weights = found["importance"] or {}
    weighed = sorted(((v, name) for name, v in weights.items() if v is not None), reverse=True)
    if weighed:
        lines.append(
            "Importance (fANOVA): " + ", ".join(f"{name} {value:.0%}" for value, name in weighed) + "."
        )
    if found["importance_reason"]:
        lines.append(f"Importance not computed: {found['importance_reason']}.")
    lines += [f"Failed: trial {t['id']}: {t['error']}" for t in found["trials"] if t["status"] == "failed"]
    return "\n".join(lines) + "\n"
