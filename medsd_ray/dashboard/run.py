"""A run's folder as plain data: progress, curves, checkpoints, samples, spec."""

from __future__ import annotations

import re
from typing import Any

from medsd_ray.dashboard.cached_files import CachedFiles, join
from medsd_ray.dashboard.curves import series
from medsd_ray.dashboard.spec_view import as_run_yaml, read_spec
from medsd_ray.runs.checkpoints import saved_steps
from medsd_ray.runs.names import (
    BEST_CHECKPOINT,
    CHECKPOINTS,
    IMAGES,
    METRICS,
    PROGRESS,
    RUN_SPEC,
    SAMPLES,
)
from medsd_ray.runs.progress import read_records
from medsd_ray.storage import FileInfo

STEPS_SHOWN = 8
"""Steps whose samples a page gets: the first, and the newest."""


def run_row(files: CachedFiles, at: str, here: dict[str, FileInfo]) -> dict[str, Any]:
    """A run in the list: its state, progress, speed, and checkpoints."""
    progress = files.json(at, PROGRESS, here)
    return {
        "at": at,
        "name": at.rpartition("/")[2] or "run",
        "state": _text(progress.get("state")) or "starting",
        **{name: _number(progress.get(name)) for name in SHOWN},
        "updated": _text(progress.get("lastUpdateTime")),
        "warnings": texts(progress.get("warnings")),
        "checkpoints": _checkpoints(files, at, here),
    }


SHOWN = ("step", "total", "loss", "validation_loss", "images_per_second", "eta_seconds")


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _checkpoints(files: CachedFiles, at: str, here: dict[str, FileInfo]) -> dict[str, Any]:
    """Steps of checkpoints, listed again whenever the run has said something new."""

    def look(_: bytes) -> dict[str, Any]:
        complete, incomplete = saved_steps(files.store.child(at) if at else files.store)
        return {"complete": complete, "incomplete": incomplete}

    stamp = here[PROGRESS].stamp if PROGRESS in here else None
    found = files.get(join(at, PROGRESS), stamp, look, CHECKPOINTS) or {"complete": [], "incomplete": []}
    best = files.json(at, BEST_CHECKPOINT, here)
    return found | {"best": best.get("step"), "why": _text(best.get("why"))}


def run_view(files: CachedFiles, at: str) -> dict[str, Any] | None:
    """All that the page of one run shows; None where there is no run."""
    folders, here = files.level(at)
    if RUN_SPEC not in here and PROGRESS not in here:
        return None
    metrics = here[METRICS].stamp if METRICS in here else None
    spec = files.get(join(at, RUN_SPEC), here[RUN_SPEC].stamp if RUN_SPEC in here else None, read_spec)
    return run_row(files, at, here) | {
        "curves": files.get(join(at, METRICS), metrics, lambda data: series(read_records(data)), "all") or {},
        "samples": samples(files, at) if SAMPLES in folders else [],
        "yaml": as_run_yaml(spec) if spec else None,
        "prompts": _prompts(spec),
    }


def _prompts(spec: dict[str, Any] | None) -> list[str]:
    training = (spec or {}).get("training")
    prompts = training.get("sample_prompts") if isinstance(training, dict) else None
    return [str(prompt) for prompt in prompts] if isinstance(prompts, list) else []


def samples(files: CachedFiles, at: str) -> list[dict[str, Any]]:
    """The sample images of the first and the newest steps: `{"step", "images": [{"name", "stamp"}]}`."""
    folder = join(at, SAMPLES)
    steps = sorted(name for name in files.level(folder)[0] if re.fullmatch(r"step-\d{1,12}", name))
    chosen = steps if len(steps) <= STEPS_SHOWN else [steps[0], *steps[1 - STEPS_SHOWN :]]
    return [{"step": int(name[5:]), "images": images(files, at, f"{SAMPLES}/{name}")} for name in chosen]


def images(files: CachedFiles, at: str, folder: str, limit: int = 16) -> list[dict[str, str]]:
    """The first PNG files of a folder of the run."""
    here = files.level(join(at, folder))[1]
    names = sorted(name for name in here if IMAGE.fullmatch(f"{folder}/{name}"))
    return [{"name": f"{folder}/{name}", "stamp": here[name].stamp} for name in names[:limit]]


IMAGE = re.compile(rf"({IMAGES}|{SAMPLES}/step-\d{{1,12}})/[A-Za-z0-9][A-Za-z0-9._-]*\.png")
"""The names of images that the server hands out, below a run's folder."""
