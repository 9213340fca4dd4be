"""An attempt that is there: the phases Queued, Starting, Running and Suspending."""

from __future__ import annotations

from medsd_ray.operator.lifecycle import progress
from medsd_ray.operator.lifecycle.decision import DecisionBuilder, ScaleWorkers
from medsd_ray.operator.lifecycle.failures import (
    Failure,
    died,
    ended,
    exit_code,
    has_token,
    head_loss,
    losses,
    succeeded,
    why_dead,
)
from medsd_ray.operator.lifecycle.idle_phases import STARTING_S, create_attempt_again
from medsd_ray.operator.lifecycle.pods import (
    group_of,
    is_going,
    is_head,
    is_over,
    is_placed,
    live,
    workers_ready,
)
from medsd_ray.operator.lifecycle.transitions import (
    CLEARING_S,
    add_active_time,
    attempt_failure,
    delete_rayjob,
    end_with_rayjob,
    fail,
    fail_infrastructure,
    is_cleared,
    set_suspended,
    succeed,
)
from medsd_ray.operator.lifecycle.wait_reasons import WaitReason, wait_reason, workers_to_give_up
from medsd_ray.operator.subject import Subject

RUNNING_S = 5.0
"""Between two polls of the driver."""

ELASTIC_PATIENCE_S = 30.0
"""An elastic run waits this long for pods that no node takes, before it starts with those that are there."""

INTERRUPTED = 130

NO_TOKEN = (
    "KubeRay did not keep the RayJob's authOptions, so that whoever reaches Ray's API could run code; "
    "upgrade KubeRay's operator and its CRDs to 1.6 or later, then make this object anew"
)


ORDINARY = {"WaitingForKubeRay", "WaitingForPods", "PodsStarting", "JobSubmitted"}
"""Reasons to wait that every start has."""


def handle_starting(builder: DecisionBuilder) -> None:
    rayjob = builder.observed.rayjob
    if rayjob is None and builder.attempt.uid is None:
        if not _missed_start_deadline(builder, builder.status.message or "its RayJob is not made"):
            create_attempt_again(builder)
        return
    if rayjob is None or is_going(rayjob):
        fail_infrastructure(
            builder, "RayJobGone", f"RayJob {builder.attempt.rayJob} was deleted from outside"
        )
        return
    builder.set_attempt(uid=rayjob["metadata"]["uid"])
    if not has_token(rayjob):
        fail(builder, Failure("final", "KubeRayTooOld", NO_TOKEN))
        return
    if (
        end_with_rayjob(builder)
        or _handle_suspend_request(builder)
        or _handle_queue(builder)
        or _handle_job_start(builder)
    ):
        return
    head = next(
        (
            pod
            for pod in [*builder.pods, *builder.deleted_pods]
            if is_head(pod) and is_over(pod) and died(pod)
        ),
        None,
    )
    if head is not None:
        fail_infrastructure(
            builder,
            "HeadFailed",
            f"head pod {head['metadata']['name']} ended before the run began: {why_dead(head)}",
        )
        return
    _report_waiting(builder)


def _handle_queue(builder: DecisionBuilder) -> bool:
    """Kueue holds the RayJob back, or takes it back: then its pods go, and it starts again from the newest
    checkpoint.
    """
    rayjob = builder.observed.rayjob or {}
    held = rayjob["spec"].get("suspend") or (rayjob.get("status") or {}).get("jobDeploymentStatus") in (
        "Suspending",
        "Suspended",
    )
    if held:
        message = (
            f"waiting for a place in queue {builder.spec.queue}"
            if builder.spec.queue
            else "its RayJob is suspended from outside"
        )
        if builder.status.phase != "Queued":
            add_active_time(builder)
            builder.set_attempt(headPodUID=None)
            builder.set_phase("Queued", "Queued", message)
        builder.set_message(message)
        builder.set_condition("Scheduled", False, "Queued", message)
        return True
    if builder.status.phase == "Queued":
        builder.set_attempt(startTime=builder.timestamp)  # the deadline to start counts from here
        builder.set_phase(
            "Starting",
            "Starting",
            f"attempt {builder.attempt.number} starts as RayJob {builder.attempt.rayJob}",
        )
        builder.requeue(0)
        return True
    return False


def _handle_job_start(builder: DecisionBuilder) -> bool:
    """Whether Ray runs the job now."""
    head = next((pod for pod in live(builder.pods) if is_head(pod)), None)
    if ((builder.observed.rayjob or {}).get("status") or {}).get("jobStatus") != "RUNNING" or head is None:
        return False
    builder.set_attempt(headPodUID=head["metadata"]["uid"], runningTime=builder.timestamp)
    builder.set_phase("Running", "Running", f"attempt {builder.attempt.number} runs")
    _report_workers(builder)
    builder.requeue(0)
    return True


def _report_waiting(builder: DecisionBuilder) -> None:
    reason = wait_reason(builder.observed.rayjob or {}, builder.pods, list(builder.observed.events))
    builder.set_condition(
        "Scheduled", False, reason.reason, reason.message, warning=reason.reason not in ORDINARY
    )
    builder.set_message(reason.message)
    builder.requeue(STARTING_S)
    if not _missed_start_deadline(builder, reason.message):
        _start_with_ready_workers(builder, reason)


def _missed_start_deadline(builder: DecisionBuilder, why: str) -> bool:
    """Fails an attempt that has not started in time; `why` it waits."""
    deadline = builder.spec.startDeadlineSeconds
    if deadline is None and builder.observed.runtime is not None:
        deadline = builder.observed.runtime.defaults.startDeadlineSeconds
    if deadline is None:
        return False
    left = deadline - builder.seconds_since(builder.attempt.startTime)
    if left > 0:
        builder.requeue(left)
        return False
    fail(builder, Failure("final", "StartDeadlineExceeded", f"did not start within {deadline} s: {why}"))
    return True


def _start_with_ready_workers(builder: DecisionBuilder, reason: WaitReason) -> None:
    """KubeRay submits a job only when all pods are ready: an elastic run gives up those that no node takes,
    for now.
    """
    group = group_of(builder.observed.rayjob or {})
    without = workers_to_give_up(group, builder.pods)
    if group.cluster is None or group.least == group.most or not without:
        return
    scheduled = builder.find_condition("Scheduled")
    patience = ELASTIC_PATIENCE_S - builder.seconds_since(scheduled.lastTransitionTime if scheduled else None)
    if patience > 0:
        builder.requeue(patience)
        return
    ready = workers_ready(builder.pods)
    builder.add_event(
        "Normal", "StartsSmaller", f"starts with {ready} of {group.most} worker pods: {reason.message}"
    )
    builder.add_action(ScaleWorkers(group.cluster, ready, tuple(without)))


def handle_running(builder: DecisionBuilder) -> None:
    rayjob = builder.observed.rayjob
    if rayjob is None or is_going(rayjob):
        fail_infrastructure(
            builder, "RayJobGone", f"RayJob {builder.attempt.rayJob} was deleted from outside"
        )
        return
    progress.show(builder)
    if end_with_rayjob(builder) or _handle_queue(builder):
        return
    loss = head_loss(builder.attempt.headPodUID, builder.pods, builder.deleted_pods)
    if loss is not None:
        fail_infrastructure(builder, "HeadLost", loss)
        return
    if _handle_suspend_request(builder):
        return
    limit, used = (
        builder.spec.activeDeadlineSeconds,
        builder.status.activeSeconds + builder.seconds_since(builder.attempt.runningTime),
    )
    if limit is not None and used >= limit:
        message = f"ran for {limit} s, as long as activeDeadlineSeconds allows"
        fail(builder, Failure("final", "DeadlineExceeded", message))
        return
    builder.set_message(f"attempt {builder.attempt.number} runs")
    _report_workers(builder)
    builder.requeue(RUNNING_S if limit is None else min(RUNNING_S, limit - used))


def _report_workers(builder: DecisionBuilder) -> None:
    """Workers that are lost come back, and Ray Train goes on with them: a warning until then. An elastic run
    takes more.
    """
    group, pods = group_of(builder.observed.rayjob or {}), builder.pods
    ready, there = workers_ready(pods), sum(not is_head(pod) for pod in live(pods))
    wanted = max(group.wanted, there)  # KubeRay's own count comes a little later
    lost = losses(
        [
            pod
            for pod in [*builder.deleted_pods, *pods]
            if not is_head(pod) and (died(pod) or ready < group.least)
        ]
    )
    message = f"{ready} of {wanted} workers ready" + (f" ({'; '.join(lost)})" if lost else "")
    reason = wait_reason(builder.observed.rayjob or {}, pods, list(builder.observed.events))
    if ready < wanted and reason.reason not in ORDINARY:
        message += f"; {reason.message}"
    if ready >= wanted:
        builder.set_condition("Scheduled", True, "AllReady", message)
    elif ready >= group.least and group.least < group.most:
        builder.set_condition("Scheduled", True, "RunsSmaller", message)
    else:
        builder.set_condition("Scheduled", False, "WorkersMissing", message, warning=True)
    if group.cluster and group.least <= there < group.most and all(is_placed(pod) for pod in live(pods)):
        builder.add_action(ScaleWorkers(group.cluster, group.most))


# --- a stop


def wants_stop(subject: Subject) -> bool:
    """Whether the driver is to be asked for a checkpoint and an end."""
    return subject.status.phase == "Suspending"


def _handle_suspend_request(builder: DecisionBuilder) -> bool:
    if not builder.spec.suspend:
        return False
    builder.drop_conditions("Suspended")
    builder.set_condition("Suspended", False, "Stopping", "a checkpoint first, then all pods go")
    builder.set_phase("Suspending", "Suspending", "a checkpoint first, then all pods go")
    builder.requeue(
        0
    )  # the driver is asked from the next reconciliation on: by then it is on record that it was
    return True


def handle_suspending(builder: DecisionBuilder) -> None:
    rayjob = builder.observed.rayjob
    progress.show(builder)
    if rayjob is not None and succeeded(rayjob):
        succeed(builder)
        return
    if rayjob is not None and ended(rayjob) and exit_code(rayjob) != INTERRUPTED:
        failure = attempt_failure(builder)
        if failure.kind != "infrastructure":  # what is lost while it stops is not retried, but resumed
            fail(builder, failure)
            return
    if rayjob is not None and not _may_still_save(builder):
        delete_rayjob(builder, rayjob)
    builder.requeue(CLEARING_S)
    if rayjob is None and is_cleared(builder):
        saved = builder.status.progress.lastCheckpointStep if builder.status.progress else None
        newest = f" with a checkpoint of step {saved}" if saved is not None else ""
        set_suspended(builder, f"suspended{newest}; all its pods are gone")


def _may_still_save(builder: DecisionBuilder) -> bool:
    """Whether there is a driver that may yet save a checkpoint within the limit."""
    if builder.attempt.runningTime is None or ended(builder.observed.rayjob or {}):
        return False
    if head_loss(builder.attempt.headPodUID, builder.pods, builder.deleted_pods) is not None:
        return False
    asked = builder.find_condition("Suspended")
    in_time = (
        builder.seconds_since(asked.lastTransitionTime if asked else None) < builder.spec.stopGraceSeconds
    )
    return in_time and not (builder.observed.driver is not None and builder.observed.driver.over)
