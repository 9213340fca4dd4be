"""A study's folder as plain data: its trials, what was tried, the combinations, importance."""

from __future__ import annotations

import io
import math
from collections import Counter
from typing import Any

from PIL import Image

from medsd_ray.dashboard.cached_files import CachedFiles, join
from medsd_ray.dashboard.discovery import is_study
from medsd_ray.dashboard.run import SHOWN, images, run_row, texts
from medsd_ray.dashboard.spec_view import as_run_yaml, difference, label, read_spec
from medsd_ray.runs.names import (
    IMAGES,
    PROGRESS,
    RUN_SPEC,
    STUDY,
    STUDY_SPEC,
    TRIAL,
    trial_file,
    trial_folder,
)
from medsd_ray.spec.components import COMPONENTS
from medsd_ray.spec.plan import TRIALS, VAES
from medsd_ray.storage import FileInfo

Trial = dict[str, Any]
IMAGES_SHOWN = 8
"""Prompts and seeds that are shown side by side."""


def study_row(files: CachedFiles, at: str, here: dict[str, FileInfo]) -> dict[str, Any]:
    """A study in the list."""
    raw = _raw(files, at, here)
    trials, best = _dicts(raw.get("trials")), _dict(raw.get("best"))
    newest = max((info.modified for name, info in here.items() if name in (STUDY, STUDY_SPEC)), default=None)
    return {
        "at": at,
        "name": _text(raw.get("name")) or at.rpartition("/")[2] or "study",
        "state": _text(raw.get("state")) or "starting",
        "metric": _text(raw.get("metric")),
        "mode": _text(raw.get("mode")),
        "counts": dict(Counter(str(trial.get("status")) for trial in trials)),
        "trials": len(trials),
        "best": {"trial": _text(best.get("trial")), "value": number(best.get("metric"))},
        "seconds": number(raw.get("seconds")),
        "modified": newest,
    }


def _raw(files: CachedFiles, at: str, here: dict[str, FileInfo]) -> dict[str, Any]:
    """study.json; before its first writing, what study.yaml and the trials themselves say."""
    if STUDY in here:
        return files.json(at, STUDY, here)
    spec = (
        files.get(join(at, STUDY_SPEC), here[STUDY_SPEC].stamp if STUDY_SPEC in here else None, read_spec)
        or {}
    )
    found = []
    for name in files.level(join(at, TRIALS))[0]:
        folder = join(at, trial_folder(name))
        if trial := files.json(folder, TRIAL, files.level(folder)[1]):
            found.append(trial)
    return {name: spec.get(name) for name in ("name", "metric", "mode")} | {"trials": found}


def study_view(files: CachedFiles, at: str) -> dict[str, Any] | None:
    """All that the page of one study shows but curves and images; None where there is no study."""
    folders, here = files.level(at)
    if not is_study(here):
        return None
    raw = _raw(files, at, here)
    trials = [trial_row(trial) for trial in _dicts(raw.get("trials")) if safe_id(trial.get("id"))]
    for trial in trials:
        if trial["status"] == "running":
            trial["live"] = _live(files, join(at, trial_folder(trial["id"])))
    return study_row(files, at, here) | {
        "trials": trials,
        "parameters": parameters(trials),
        "metrics": metric_names(trials, _text(raw.get("metric"))),
        "combinations": [_combination(one) for one in _dicts(raw.get("combinations"))],
        "importance": {str(k): number(v) for k, v in _dict(raw.get("importance")).items()} or None,
        "importance_reason": _text(raw.get("importance_reason")),
        "stages": _stages(files, at) if VAES in folders else [],
        "warnings": texts(files.json(at, PROGRESS, here).get("warnings")),
    }


def _stages(files: CachedFiles, at: str) -> list[dict[str, Any]]:
    """The runs that adapted the VAE, each shared by trials."""
    found = [(join(at, f"{VAES}/{name}"), name) for name in files.level(join(at, VAES))[0]]
    levels = [(folder, files.level(folder)[1]) for folder, _ in found]
    return [run_row(files, folder, here) for folder, here in levels if PROGRESS in here]


def _live(files: CachedFiles, folder: str) -> dict[str, Any]:
    progress = files.json(folder, PROGRESS, files.level(folder)[1])
    return {name: number(progress.get(name)) for name in SHOWN} | {
        "updated": _text(progress.get("lastUpdateTime"))
    }


def trial_row(trial: dict[str, Any]) -> Trial:
    """A trial of study.json with only what is known to be of the right kind."""
    components = _dict(trial.get("components"))
    return {
        "id": trial["id"],
        "status": _text(trial.get("status")) or "pending",
        "error": _text(trial.get("error")),
        "trains": trial.get("run", "")
        is not None,  # else U-Net and text encoder are frozen: a model judged as it is
        "seed": number(trial.get("seed")),
        "steps": number(trial.get("steps")),
        "seconds": number(trial.get("seconds")),
        "components": {str(name): label(value) for name, value in components.items()},
        "params": {str(name): label(value) for name, value in _dict(trial.get("params")).items()},
        "metrics": {str(name): number(value) for name, value in _dict(trial.get("metrics")).items()},
    }


def _combination(one: dict[str, Any]) -> dict[str, Any]:
    metrics = {
        str(name): value for name, value in _dict(one.get("metrics")).items() if isinstance(value, dict)
    }
    return {
        "params": {str(name): label(value) for name, value in _dict(one.get("params")).items()},
        "components": {str(name): label(value) for name, value in _dict(one.get("components")).items()},
        "trials": [str(name) for name in one.get("trials") or []],
        "metrics": {
            name: {key: number(value.get(key)) for key in ("mean", "low", "high", "n")}
            for name, value in metrics.items()
        },
    }


def parameters(trials: list[Trial]) -> list[dict[str, Any]]:
    """The dimensions that were tried: `number` (on a log axis where they span a decade and more) or
    `category`.
    """
    place = {f"components.{name}": index for index, name in enumerate(COMPONENTS)}
    names = sorted(
        {name for trial in trials for name in trial["params"]},
        key=lambda name: (place.get(name, len(place)), name),
    )
    found = []
    for name in names:
        values = [trial["params"][name] for trial in trials if trial["params"].get(name) is not None]
        numeric = bool(values) and all(number(value) is not None for value in values)
        log = numeric and min(values) > 0 and max(values) >= 10 * min(values)
        found.append({"name": name, "kind": "number" if numeric else "category", "log": log})
    return found


def metric_names(trials: list[Trial], first: str | None) -> list[str]:
    """The figures that trials have, the study's own first."""
    known = {name for trial in trials for name, value in trial["metrics"].items() if value is not None}
    return sorted(known | ({first} if first else set()), key=lambda name: (name != first, name))


def trial_images(files: CachedFiles, at: str, ids: list[str]) -> dict[str, Any]:
    """Images of trials on the same prompts and seeds: a row for each file name, in it each trial's file or
    null.
    """
    by_trial = {}
    for name in ids:
        folder = join(at, trial_folder(name))
        by_trial[name] = {
            image["name"]: image["stamp"] for image in images(files, folder, IMAGES, IMAGES_SHOWN)
        }
    rows = []
    for name in sorted({name for found in by_trial.values() for name in found})[:IMAGES_SHOWN]:
        first = next(trial for trial in ids if name in by_trial[trial])
        notes = files.get(join(at, trial_file(first, name)), by_trial[first][name], png_notes, "notes") or {}
        stamps = {trial: by_trial[trial].get(name) for trial in ids}
        rows.append(
            {"name": name, "prompt": notes.get("prompt"), "seed": notes.get("seed"), "stamps": stamps}
        )
    return {"trials": ids, "rows": rows}


def png_notes(data: bytes) -> dict[str, str]:
    """A PNG's text chunks, such as `prompt` and `seed`. Raises ValueError for another file."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            return {str(key): str(value) for key, value in image.info.items() if isinstance(value, str)}
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"no PNG: {error}") from error


def trial_spec(files: CachedFiles, at: str, trial: str) -> dict[str, Any] | None:
    """A trial's run as RUN.yaml and as plain values; None before it has one."""
    folder = join(at, trial_folder(trial))
    here = files.level(folder)[1]
    spec = files.get(join(folder, RUN_SPEC), here[RUN_SPEC].stamp if RUN_SPEC in here else None, read_spec)
    return {"trial": trial, "yaml": as_run_yaml(spec), "values": spec} if spec else None


def compare(files: CachedFiles, at: str, a: str, b: str) -> dict[str, Any]:
    """What differs between two trials' specs; `difference` is null where one has none yet."""
    left, right = trial_spec(files, at, a), trial_spec(files, at, b)
    found = difference(left["values"], right["values"]) if left and right else None
    return {"a": a, "b": b, "difference": found}


def safe_id(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) <= 64 and all(c.isalnum() or c in "-_" for c in name)


def number(value: Any) -> float | None:
    return (
        value
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        else None
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
