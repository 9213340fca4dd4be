"""An attempt that is there: the phases Queued, Starting, Running and Suspending."""

from __future__ import annotations

from medsd_ray.operator.lifecycle import progress
from medsd_ray.operator.lifecycle.decision import ScaleWorkers, Turn
from medsd_ray.operator.lifecycle.failures import (
    Failure,
    died,
    ended,
    exit_code,
    head_loss,
    losses,
    succeeded,
    why_dead,
)
from medsd_ray.operator.lifecycle.pods import (
    group_of,
    is_going,
    is_head,
    is_over,
    is_placed,
    live,
    workers_ready,
)
from medsd_ray.operator.lifecycle.start import STARTING_S, make_again
from medsd_ray.operator.lifecycle.transitions import (
    CLEARING_S,
    cleared,
    delete,
    fail,
    failure,
    lose,
    over,
    stop_clock,
    succeed,
    suspended,
)
from medsd_ray.operator.lifecycle.waiting import Waiting, scale_down, waiting
from medsd_ray.operator.subject import Subject

RUNNING_S = 5.0
"""Between two polls of the driver."""

ELASTIC_PATIENCE_S = 30.0
"""An elastic run waits this long for pods that no node takes, before it starts with those that are there."""

INTERRUPTED = 130


ORDINARY = {"WaitingForKubeRay", "WaitingForPods", "PodsStarting", "JobSubmitted"}
"""Reasons to wait that every start has."""


def starting(turn: Turn) -> None:
    rayjob = turn.facts.rayjob
    if rayjob is None and turn.attempt.uid is None:
        make_again(turn)
        return
    if rayjob is None or is_going(rayjob):
        lose(turn, "RayJobGone", f"RayJob {turn.attempt.rayJob} was deleted from outside")
        return
    turn.set_attempt(uid=rayjob["metadata"]["uid"])
    if over(turn) or _asked_to_stop(turn) or _in_queue(turn) or _started(turn):
        return
    head = next(
        (pod for pod in [*turn.pods, *turn.gone] if is_head(pod) and is_over(pod) and died(pod)), None
    )
    if head is not None:
        lose(
            turn,
            "HeadFailed",
            f"head pod {head['metadata']['name']} ended before the run began: {why_dead(head)}",
        )
        return
    _waits(turn)


def _in_queue(turn: Turn) -> bool:
    """Kueue holds the RayJob back, or takes it back: then its pods go, and it starts again from the newest
    checkpoint.
    """
    rayjob = turn.facts.rayjob or {}
    held = rayjob["spec"].get("suspend") or (rayjob.get("status") or {}).get("jobDeploymentStatus") in (
        "Suspending",
        "Suspended",
    )
    if held:
        words = (
            f"waiting for a place in queue {turn.spec.queue}"
            if turn.spec.queue
            else "its RayJob is suspended from outside"
        )
        if turn.status.phase != "Queued":
            stop_clock(turn)
            turn.set_attempt(headPodUID=None)
            turn.to("Queued", "Queued", words)
        turn.say(words)
        turn.condition("Scheduled", False, "Queued", words)
        return True
    if turn.status.phase == "Queued":
        turn.set_attempt(startTime=turn.stamp)  # the deadline to start counts from here
        turn.to(
            "Starting", "Starting", f"attempt {turn.attempt.number} starts as RayJob {turn.attempt.rayJob}"
        )
        turn.look_again(0)
        return True
    return False


def _started(turn: Turn) -> bool:
    """Whether Ray runs the job now."""
    head = next((pod for pod in live(turn.pods) if is_head(pod)), None)
    if ((turn.facts.rayjob or {}).get("status") or {}).get("jobStatus") != "RUNNING" or head is None:
        return False
    turn.set_attempt(headPodUID=head["metadata"]["uid"], runningTime=turn.stamp)
    turn.to("Running", "Running", f"attempt {turn.attempt.number} runs")
    _workers(turn)
    turn.look_again(0)
    return True


def _waits(turn: Turn) -> None:
    what = waiting(turn.facts.rayjob or {}, turn.pods, list(turn.facts.events))
    turn.condition("Scheduled", False, what.reason, what.message, warning=what.reason not in ORDINARY)
    turn.say(what.message)
    turn.look_again(STARTING_S)
    deadline = turn.spec.startDeadlineSeconds
    if deadline is None and turn.facts.runtime is not None:
        deadline = turn.facts.runtime.defaults.startDeadlineSeconds
    if deadline is not None:
        left = deadline - turn.since(turn.attempt.startTime)
        if left <= 0:
            words = f"did not start within {deadline} s: {what.message}"
            fail(turn, Failure("final", "StartDeadlineExceeded", words))
            return
        turn.look_again(left)
    _start_with_what_there_is(turn, what)


def _start_with_what_there_is(turn: Turn, what: Waiting) -> None:
    """KubeRay submits a job only when all pods are ready: an elastic run gives up those that no node takes,
    for now.
    """
    group = group_of(turn.facts.rayjob or {})
    without = scale_down(group, turn.pods)
    if group.cluster is None or group.least == group.most or not without:
        return
    scheduled = turn.find("Scheduled")
    patience = ELASTIC_PATIENCE_S - turn.since(scheduled.lastTransitionTime if scheduled else None)
    if patience > 0:
        turn.look_again(patience)
        return
    ready = workers_ready(turn.pods)
    turn.event("Normal", "StartsSmaller", f"starts with {ready} of {group.most} worker pods: {what.message}")
    turn.do(ScaleWorkers(group.cluster, ready, tuple(without)))


def running(turn: Turn) -> None:
    rayjob = turn.facts.rayjob
    if rayjob is None or is_going(rayjob):
        lose(turn, "RayJobGone", f"RayJob {turn.attempt.rayJob} was deleted from outside")
        return
    progress.show(turn)
    if over(turn) or _in_queue(turn):
        return
    loss = head_loss(turn.attempt.headPodUID, turn.pods, turn.gone)
    if loss is not None:
        lose(turn, "HeadLost", loss)
        return
    if _asked_to_stop(turn):
        return
    limit, used = (
        turn.spec.activeDeadlineSeconds,
        turn.status.activeSeconds + turn.since(turn.attempt.runningTime),
    )
    if limit is not None and used >= limit:
        words = f"ran for {limit} s, as long as activeDeadlineSeconds allows"
        fail(turn, Failure("final", "DeadlineExceeded", words))
        return
    turn.say(f"attempt {turn.attempt.number} runs")
    _workers(turn)
    turn.look_again(RUNNING_S if limit is None else min(RUNNING_S, limit - used))


def _workers(turn: Turn) -> None:
    """Workers that are lost come back, and Ray Train goes on with them: a warning until then. An elastic run
    takes more.
    """
    group, pods = group_of(turn.facts.rayjob or {}), turn.pods
    ready, there = workers_ready(pods), sum(not is_head(pod) for pod in live(pods))
    wanted = max(group.wanted, there)  # KubeRay's own count comes a little later
    why = losses(
        [pod for pod in [*turn.gone, *pods] if not is_head(pod) and (died(pod) or ready < group.least)]
    )
    words = f"{ready} of {wanted} workers ready" + (f" ({'; '.join(why)})" if why else "")
    what = waiting(turn.facts.rayjob or {}, pods, list(turn.facts.events))
    if ready < wanted and what.reason not in ORDINARY:
        words += f"; {what.message}"
    if ready >= wanted:
        turn.condition("Scheduled", True, "AllReady", words)
    elif ready >= group.least and group.least < group.most:
        turn.condition("Scheduled", True, "RunsSmaller", words)
    else:
        turn.condition("Scheduled", False, "WorkersMissing", words, warning=True)
    if group.cluster and group.least <= there < group.most and all(is_placed(pod) for pod in live(pods)):
        turn.do(ScaleWorkers(group.cluster, group.most))


# --- a stop


def wants_stop(subject: Subject) -> bool:
    """Whether the driver is to be asked for a checkpoint and an end."""
    return subject.status.phase == "Suspending"


def _asked_to_stop(turn: Turn) -> bool:
    if not turn.spec.suspend:
        return False
    turn.drop("Suspended")
    turn.condition("Suspended", False, "Stopping", "a checkpoint first, then all pods go")
    turn.to("Suspending", "Suspending", "a checkpoint first, then all pods go")
    turn.look_again(0)  # the driver is asked from the next turn on: by then it is on record that it was
    return True


def suspending(turn: Turn) -> None:
    rayjob = turn.facts.rayjob
    progress.show(turn)
    if rayjob is not None and succeeded(rayjob):
        succeed(turn)
        return
    if rayjob is not None and ended(rayjob) and exit_code(rayjob) != INTERRUPTED:
        what = failure(turn)
        if what.kind != "infrastructure":  # what is lost while it stops is not retried, but resumed
            fail(turn, what)
            return
    if rayjob is not None and not _still_saving(turn):
        delete(turn, rayjob)
    turn.look_again(CLEARING_S)
    if rayjob is None and cleared(turn):
        saved = turn.status.progress.lastCheckpointStep if turn.status.progress else None
        newest = f" with a checkpoint of step {saved}" if saved is not None else ""
        suspended(turn, f"suspended{newest}; all its pods are gone")


def _still_saving(turn: Turn) -> bool:
    """Whether there is a driver that may yet save a checkpoint within the limit."""
    if turn.attempt.runningTime is None or ended(turn.facts.rayjob or {}):
        return False
    if head_loss(turn.attempt.headPodUID, turn.pods, turn.gone) is not None:
        return False
    asked = turn.find("Suspended")
    in_time = turn.since(asked.lastTransitionTime if asked else None) < turn.spec.stopGraceSeconds
    return in_time and not (turn.facts.driver is not None and turn.facts.driver.over)
