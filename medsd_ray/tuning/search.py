"""The search itself, by Ray Tune: its searcher hook asks the study's record for trials, its callback writes
what became of them.
"""

from __future__ import annotations

import os
import threading
import uuid
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from medsd_ray.evaluation.messages import print_line
from medsd_ray.runs.names import trial_folder
from medsd_ray.runs.progress import read_metrics
from medsd_ray.spec import plan
from medsd_ray.spec.space import apply, combinations
from medsd_ray.spec.study import StudySpec
from medsd_ray.storage import Storage, pyarrow_filesystem
from medsd_ray.tuning.study_record import StudyRecord
from medsd_ray.tuning.trial import scheduler_metrics, trial

LOSS = "validation_loss"
SHARE: dict[str, float] = {"CPU": 0, "memory": 1 << 20}
"""Of a trial's own actor: no CPU, as it waits for the workers of its run, which have theirs. Ray Tune refuses
an empty one.
"""


class PickledEmpty:
    """Ray Tune pickles its parts for a restore of its own, which nobody asks for: a study goes on from its
    record.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StudySearcher(PickledEmpty, Searcher):
    """Ray Tune's way to the record's trials; none is given once the study is asked to stop."""

    def __init__(self, record: StudyRecord, stop: threading.Event):
        super().__init__()
        self.record, self.stop = record, stop

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        over = self.stop.is_set() or self.record.out_of_time
        trial = None if over else self.record.next_trial()
        return {"trial": trial["id"]} if trial else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """The record hears of it from `StudyCallback`, which Ray Tune calls for every kind of search."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing, as it is not restored from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as for `save`."""


class StudyCallback(PickledEmpty, tune.Callback):
    """Writes into the study's record what Ray Tune says of trials."""

    def __init__(self, record: StudyRecord):
        self.record = record

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.record.started(str(trial), trial.config.get("params", {}))
        print_line(self.record.describe(str(trial)))

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if LOSS in result:
            self.record.validated(str(trial), result["step"], result[LOSS])

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        name, result = str(trial), trial.last_result
        if result.get("interrupted"):
            self.record.ended(name, "pending")
        elif error := result.get("error"):
            self.record.ended(name, "failed", error=error)
        elif final := result.get("final"):
            metrics = dict(final)
            self.record.ended(name, "done", steps=metrics.pop("steps"), metrics=metrics)
        else:
            self.record.ended(name, "stopped")
        print_line(self.record.describe(name))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        name = str(trial)
        self.record.ended(name, "failed", error="its process was lost; Ray's logs say more")
        print_line(self.record.describe(name))


def run_trials(
    record: StudyRecord, prompts: list[str], judged: bool, concurrent: int, stop: threading.Event
) -> None:
    """Runs every trial that is left, `concurrent` at a time. Raises what Ray Tune raises; a trial's failure
    is no error.
    """
    study, population = record.study, record.study.search.scheduler == "pbt"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # CSV and JSON files of its own for each trial
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a trial's last report has no validation loss
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    path, filesystem = pyarrow_filesystem(record.output)
    given = {"study": study.model_dump(mode="json"), "prompts": prompts, "judged": judged}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, **given), SHARE),
        param_space=_population(record) if population else {},
        tune_config=tune.TuneConfig(
            num_samples=1 if population else -1,
            search_alg=None if population else StudySearcher(record, stop),
            scheduler=scheduler(study, record),
            # A trial's name, to Ray Tune too, is the record's: pbt gives it another one's config.
            trial_name_creator=lambda one: one.config["trial"],
            max_concurrent_trials=concurrent,
            # A process that has ended one trial goes on with the next, and need not import everything again.
            # Where a scheduler stops trials, their code may still be at work.
            reuse_actors=study.search.scheduler == "none",
        ),
        run_config=tune.RunConfig(
            name=uuid.uuid4().hex[:8],
            storage_path=f"{path}/{plan.TUNE}",
            storage_filesystem=filesystem,
            callbacks=[StudyCallback(record)],
            verbose=0,
            failure_config=tune.FailureConfig(
                max_failures=(study.run.get("resources") or {}).get("max_failures", 0)
            ),
        ),
    )
    tuner.fit()


def _population(record: StudyRecord) -> dict[str, Any]:
    """pbt takes no searcher: all of its trials are there from the start."""
    trials = {one["id"]: one["params"] for one in record.plan_all()}
    return {
        "trial": tune.grid_search(list(trials)),
        "params": {path: tune.sample_from(_of(trials, path)) for path in record.study.space},
    }


def _of(trials: dict[str, dict[str, Any]], path: str) -> Any:
    return lambda config: trials[config["trial"]][path]


def scheduler(study: StudySpec, record: StudyRecord) -> TrialScheduler:
    """Ray Tune's own. asha is told again what earlier starts of this study's driver had told it."""
    how = study.search
    if how.scheduler == "pbt":
        ranges = {
            path: (tune.loguniform if d.loguniform else tune.uniform)(*d.bounds)
            for path, d in study.space.items()
        }
        return PopulationBasedTraining(
            time_attr="step", metric=LOSS, mode="min", perturbation_interval=how.interval_steps or 1,
            hyperparam_mutations={"params": ranges}, require_attrs=False,
        )  # fmt: skip
    if how.scheduler != "asha":
        return FIFOScheduler()
    longest = max(apply(study.run, one)["training"]["max_steps"] for one in combinations(study.space, end=1))
    # At its last step a trial is not stopped any more: its images are what the study is for.
    grace = how.grace_steps or 1
    asha = ASHAScheduler(
        time_attr="step", metric=LOSS, mode="min", grace_period=grace, max_t=max(grace, longest - 1),
        reduction_factor=how.reduction_factor, stop_last_trials=False,
    )  # fmt: skip
    for one in record.trials:
        if one["status"] in ("done", "stopped"):
            _replay(asha, one["id"], record.output.child(trial_folder(one["id"])))
    return asha


class _Earlier:
    """As much of a trial as asha looks at."""

    def __init__(self, trial_id: str):
        self.trial_id = trial_id


def _replay(asha: Any, name: str, output: Storage) -> None:
    earlier = _Earlier(name)
    asha.on_trial_add(None, earlier)
    for metrics in read_metrics(output):
        if LOSS in metrics:
            asha.on_trial_result(None, earlier, scheduler_metrics(metrics))
