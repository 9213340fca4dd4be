"""What a run says of itself, as status.progress and as conditions. Pure functions."""

from __future__ import annotations

import math
import re

from medsd_ray.console import duration
from medsd_ray.driver.protocol import DriverAnswer
from medsd_ray.operator.lifecycle.decision import DecisionBuilder
from medsd_ray.operator.manifests.rayjob import output_of, report_of
from medsd_ray.spec.objects import FineTuneSpec
from medsd_ray.spec.status import Addresses, Progress
from medsd_ray.times import stamp

STALLED_S = 300.0


STALLED_STEPS = 20


UNSAVED = re.compile(r"the checkpoint of step (\d+) was not saved")


def progress_of(answer: DriverAnswer) -> Progress:
    eta = answer.eta_seconds
    updated = answer.lastUpdateTime
    return Progress(
        stage=answer.stage,
        step=answer.step,
        totalSteps=answer.total,
        loss=answer.loss if answer.loss is not None and math.isfinite(answer.loss) else None,
        best=answer.best,
        imagesPerSecond=answer.images_per_second,
        etaSeconds=eta,
        timeLeft=duration(eta) if eta is not None and 0 <= eta < 10**9 else None,
        lastCheckpointStep=answer.checkpoint_step,
        lastUpdateTime=stamp(updated) if updated else None,
    )


def show(builder: DecisionBuilder) -> None:
    """Sets what follows from the driver's answer: status.progress and the conditions CheckpointSaved and
    Stalled.
    """
    answer = builder.observed.driver
    if answer is not None:
        builder.set(progress=progress_of(answer))
        _checkpoint_saved(builder, answer)
    _stalled(builder)


def _checkpoint_saved(builder: DecisionBuilder, answer: DriverAnswer) -> None:
    saved = answer.checkpoint_step
    lost = [warning for warning in answer.warnings if UNSAVED.search(warning)]
    if lost and (saved is None or saved < int(UNSAVED.search(lost[-1])[1])):  # type: ignore[index]
        builder.set_condition(
            "CheckpointSaved", False, "NotSaved", f"{lost[-1]}; training goes on", warning=True
        )
    elif saved is not None:
        builder.set_condition(
            "CheckpointSaved", True, "Saved", f"the newest complete checkpoint is of step {saved}"
        )


def _stalled(builder: DecisionBuilder) -> None:
    """Progress that stands still while training: older than 300 s, and than 20 steps take."""
    progress = builder.status.progress
    if (
        builder.status.phase != "Running"
        or progress is None
        or progress.lastUpdateTime is None
        or progress.stage != "train"
    ):
        builder.drop_conditions("Stalled")
        return
    age = builder.seconds_since(max(progress.lastUpdateTime, builder.attempt.runningTime or ""))
    limit = max(STALLED_S, _seconds_between_updates(builder, progress))
    if age > limit:
        message = f"no progress since {progress.lastUpdateTime}, at step {progress.step}"
        silent = "" if builder.observed.driver else "; the driver does not answer"
        builder.set_condition("Stalled", True, "NoProgress", message + silent, warning=True)
    else:
        builder.set_condition("Stalled", False, "Progressing", "the run writes its progress")


def _seconds_between_updates(builder: DecisionBuilder, progress: Progress) -> float:
    """Of 20 steps, and of at least two lines of the log, between which a run writes nothing."""
    if not isinstance(builder.spec, FineTuneSpec) or not progress.imagesPerSecond:
        return 0.0
    training = builder.spec.run.training
    step = training.global_batch_size / progress.imagesPerSecond
    return step * max(STALLED_STEPS, 2 * training.log_every)


def addresses(builder: DecisionBuilder) -> None:
    """The dashboard's is there while the cluster is; the report's once the run has succeeded."""
    output = output_of(builder.spec)
    status = (builder.observed.rayjob or {}).get("status") or {}
    running = builder.status.phase in ("Starting", "Running", "Suspending")
    dashboard = status.get("dashboardURL") if running else None
    done = builder.status.phase == "Succeeded"
    builder.set(
        addresses=Addresses(
            output=output,
            logs=f"{output}/logs",
            report=f"{output}/{report}" if done and (report := report_of(builder.spec)) else None,
            dashboard=f"http://{dashboard}" if dashboard and "://" not in dashboard else dashboard,
        )
    )
