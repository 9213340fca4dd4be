"""The record of a study: one trial.json a trial, study.json over all, progress.json. The driver alone writes
it.

trial.json is the truth, so that a search whose driver was killed goes on with the same trials: study.json,
which is written after it, may be one change behind.
"""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

from medsd_ray.retries import with_retries
from medsd_ray.runs.names import PROGRESS, RUN_SPEC, STUDY, TRIAL, trial_file
from medsd_ray.spec import plan
from medsd_ray.spec.space import Combination, in_form_of, within
from medsd_ray.spec.study import StudySpec
from medsd_ray.storage import Storage
from medsd_ray.times import now
from medsd_ray.tuning import summary
from medsd_ray.tuning.markdown import shown
from medsd_ray.tuning.proposals import count_combinations, propose
from medsd_ray.tuning.summary import OVER, Trial


class StudyRecord:
    """The trials of a study in order: trial i has the combination i // seeds and the seed i % seeds."""

    def __init__(self, study: StudySpec, output: Storage, versions: dict[str, Any]):
        self.study, self.output, self.versions = study, output, versions
        self.trials = _read_trials(study, output)
        self.total = count_combinations(study) * len(study.seeds)
        if study.budget.max_trials:
            self.total = min(self.total, study.budget.max_trials)
        self.warnings: list[str] = []
        self._before = _seconds(output)
        self._began = time.monotonic()
        self._started: dict[str, float] = {}
        for trial in self.trials:
            if trial["status"] == "running":
                trial["status"] = "pending"

    @property
    def seconds(self) -> float:
        """Of the search, over all starts of its driver."""
        return self._before + time.monotonic() - self._began

    @property
    def out_of_time(self) -> bool:
        hours = self.study.budget.max_hours
        return hours is not None and self.seconds > hours * 3600

    @property
    def finished(self) -> bool:
        """Whether no trial is left to run."""
        return len(self.trials) >= self.total and all(trial["status"] in OVER for trial in self.trials)

    def next_trial(self) -> Trial | None:
        """The first trial that neither runs nor is over, planned now where it is new; None where none is
        left.
        """
        waiting = next(
            (
                trial
                for trial in self.trials
                if trial["status"] == "pending" and trial["id"] not in self._started
            ),
            None,
        )
        if waiting is None and len(self.trials) < self.total:
            waiting = self._plan()
        if waiting is not None:
            self._started[waiting["id"]] = time.monotonic()
        return waiting

    def plan_all(self) -> list[Trial]:
        """Every trial of a search that does not depend on what it finds, planned; those that are left."""
        while len(self.trials) < self.total and self._plan():
            pass
        return [trial for trial in self.trials if trial["status"] == "pending"]

    def _plan(self) -> Trial | None:
        number, seeds = len(self.trials), self.study.seeds
        groups = [self.trials[at : at + len(seeds)] for at in range(0, number, len(seeds))]
        if number % len(seeds):
            params = groups[-1][0]["params"]
        else:
            values = [summary.value_of(self.study, group) for group in groups]
            params = propose(self.study, [group[0]["params"] for group in groups], values)
            if params is None:
                return None
        self.trials.append(new_trial(self.study, number, params, seeds[number % len(seeds)]))
        self.write(self.trials[-1])
        return self.trials[-1]

    def trial(self, name: str) -> Trial:
        return self.trials[int(name)]

    def started(self, name: str, params: dict[str, Any]) -> None:
        """`params` are pbt's own by now, where it has changed them."""
        self._started[name] = time.monotonic()
        self.update(
            name,
            status="running",
            error=None,
            params=within(self.study.space, self.trial(name)["params"] | params),
        )

    def ended(self, name: str, status: str, **changes: Any) -> None:
        """`pending` is the status of a trial that was interrupted: it goes on with the study."""
        seconds = self.trial(name)["seconds"] + time.monotonic() - self._started.pop(name, time.monotonic())
        self.update(name, status=status, seconds=round(seconds, 1), **changes)

    def validated(self, name: str, step: int, loss: float) -> None:
        self.update(name, steps=step, metrics=self.trial(name)["metrics"] | {"validation_loss": loss})

    def describe(self, name: str) -> str:
        """A trial as the terminal shows it."""
        trial, study = self.trial(name), self.study
        what = ", ".join(
            f"{path.removeprefix('components.')} {shown(value)}" for path, value in trial["params"].items()
        )
        value = summary.metric_of(study, trial)
        end = (
            f": {trial['error']}"
            if trial["error"]
            else f", {study.metric} {value:.4g}"
            if value is not None
            else ""
        )
        steps = f", step {trial['steps']}" if trial["steps"] else ""
        about = f"{what or 'the run as it is'}; seed {trial['seed']}"
        return f"trial {name} of {self.total} ({about}) {trial['status']}{steps}{end}"

    def update(self, name: str, **changes: Any) -> None:
        if "metrics" in changes:  # JSON has no NaN
            changes["metrics"] = {
                n: v if v is not None and math.isfinite(v) else None for n, v in changes["metrics"].items()
            }
        self.trial(name).update(changes)
        self.write(self.trial(name))

    def write(self, trial: Trial) -> None:
        with_retries(lambda: self.output.write_json(trial_file(trial["id"], TRIAL), trial))
        self.save("running")

    def save(self, state: str) -> dict[str, Any]:
        """Writes study.json and progress.json, and returns the former."""
        found = summary.summarise(self.study, self.trials, state, self.seconds, self.versions)
        with_retries(lambda: self.output.write_json(STUDY, found))
        with_retries(lambda: self.output.write_json(PROGRESS, self.progress(state, found["best"])))
        return found

    def progress(self, state: str, best: dict[str, Any] | None) -> dict[str, Any]:
        """As a run's progress.json, with trials for steps."""
        over = [trial for trial in self.trials if trial["status"] in OVER]
        return {
            "step": len(over),
            "total": self.total,
            "state": {"done": "finished"}.get(state, state),
            "warnings": self.warnings
            + [f"trial {t['id']} failed: {t['error']}" for t in over if t["status"] == "failed"],
            "metric": self.study.metric,
            "best": best["metric"] if best else None,
            "lastUpdateTime": now(),
        }


def _read_trials(study: StudySpec, output: Storage) -> list[Trial]:
    found: list[Trial] = []
    for number in itertools.count():
        try:
            trial = output.read_json(trial_file(f"{number:04d}", TRIAL))
        except FileNotFoundError:
            return found
        found.append(trial | {"params": in_form_of(study.space, trial["params"])})
    return found


def _seconds(output: Storage) -> float:
    try:
        return float(output.read_json(STUDY)["seconds"])
    except (FileNotFoundError, ValueError):  # not there, or damaged: the trials say the rest
        return 0.0


def new_trial(study: StudySpec, number: int, params: Combination, seed: int) -> Trial:
    """What trial.json says before the trial starts. `run` is null where U-Net and text encoder are frozen:
    the model is judged as it is.
    """
    name = f"{number:04d}"
    trained = plan.trial_run(study, params, seed, name) is not None
    return {
        "id": name,
        "params": params,
        "components": plan.methods(study, params),
        "seed": seed,
        "status": "pending",
        "error": None,
        "metrics": {},
        "steps": 0,
        "seconds": 0.0,
        "run": trial_file(name, RUN_SPEC) if trained else None,
    }
