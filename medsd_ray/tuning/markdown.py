"""study.md: a study's combinations as a table, its best run, and what mattered. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medsd_ray.runs.names import BEST_RUN
from medsd_ray.spec.figures import shown_metrics
from medsd_ray.spec.space import short
from medsd_ray.tuning.summary import Trial, combinations

if TYPE_CHECKING:
    from medsd_ray.spec.study import StudySpec


def table(study: StudySpec, trials: Sequence[Trial]) -> str:
    """Combinations x metrics as Markdown, best first."""
    by_id = {trial["id"]: trial for trial in trials}
    rows = combinations(study, trials)
    every = {part: None for row in rows for part in row["components"]}
    parts = [part for part in every if any(row["components"][part] != "frozen" for row in rows)]
    others = [path for path in study.space if path.removeprefix("components.") not in parts]
    metrics = list(dict.fromkeys([study.metric, *shown_metrics(study.figures)]))
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
        f"Best first by {study.metric} ({study.direction}); 95% intervals over seeds, where they differ.",
        "",
    ]
    if study.subject != "components":
        lines += [f"Judged on real images of the {study.evaluation.split} split.", ""]
    lines += [table(study, found["trials"]), ""]
    known = [
        right for trial in found["trials"] if (right := trial["metrics"].get("detector_accuracy")) is not None
    ]
    if known:  # one detector judges all trials
        lines += [
            f"insertion_accuracy is by a detector that is itself right on {known[0]:.1%} of the real "
            "held-out images.",
            "",
        ]
    if found["best"]:
        lines.append(
            f"Best: trial {found['best']['trial']}, {study.metric} {found['best']['metric']:.4g}; its run "
            f"is {BEST_RUN}."
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
