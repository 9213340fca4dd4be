"""The state machine of a FineTune, Study or Evaluation: from what is there to what it becomes and what is to
be done. Pure.

One step a turn. The status is written before the actions are carried out, and each action may be carried out
again, so an operator that dies between any two of them goes on where it was: an attempt has its number before
its RayJob is made, and a RayJob that the status does not speak of is not there.

    Pending -> Queued -> Starting -> Running -> Succeeded | Failed
                  |          |          |
                  +----------+----------+--> Suspending -> Suspended -> (the next attempt)
                             +----------+--> Retrying -> (the next attempt)
"""

from __future__ import annotations

from datetime import datetime

from medsd_ray.operator.lifecycle import progress
from medsd_ray.operator.lifecycle.active_phases import handle_running, handle_starting, handle_suspending
from medsd_ray.operator.lifecycle.decision import Decision, DecisionBuilder, ObservedState
from medsd_ray.operator.lifecycle.failures import Failure
from medsd_ray.operator.lifecycle.idle_phases import handle_pending, handle_retrying, handle_suspended
from medsd_ray.operator.lifecycle.transitions import delete_rayjob, fail, handle_finished
from medsd_ray.operator.subject import Subject

PHASE_HANDLERS = {
    "Pending": handle_pending,
    "Queued": handle_starting,
    "Starting": handle_starting,
    "Running": handle_running,
    "Suspending": handle_suspending,
    "Suspended": handle_suspended,
    "Retrying": handle_retrying,
    "Succeeded": handle_finished,
    "Failed": handle_finished,
}


def decide(subject: Subject, observed: ObservedState, now: datetime) -> Decision:
    """Decides what becomes of an object now. Pure: nothing is read or written.

    Args:
        subject: The object as the API server has it.
        observed: What is there for it: RayJobs, pods, the driver's answer.
        now: The time, with its zone.

    Returns:
        The status to write, then the actions to carry out, the events to post, and when the object is due
        again.
    """
    if subject.spec is None:
        return _decide_invalid_spec(subject, observed, now)
    builder = DecisionBuilder(subject, subject.spec, observed, now, subject.status)
    builder.set(observedGeneration=subject.generation)
    for rayjob in observed.older_rayjobs:
        delete_rayjob(builder, rayjob)
    PHASE_HANDLERS[builder.status.phase](builder)
    if builder.status.phase != "Running":
        builder.drop_conditions("Stalled")
    progress.addresses(builder)
    return builder.decision()


def _decide_invalid_spec(subject: Subject, observed: ObservedState, now: datetime) -> Decision:
    """A spec that the API server took and the models refuse. What runs already is left alone."""
    message = subject.refusal or ""
    builder = DecisionBuilder(subject, None, observed, now, subject.status)  # type: ignore[arg-type]
    builder.set(observedGeneration=subject.generation)
    builder.set_condition("Accepted", False, "InvalidSpec", message)
    if subject.status.phase == "Pending":
        fail(builder, Failure("final", "InvalidSpec", message))
    return builder.decision()


def attempt_not_created(subject: Subject, message: str, wait: float, now: datetime) -> Decision:
    """An attempt that cannot be made, and is tried again after `wait` seconds."""
    builder = DecisionBuilder(subject, subject.spec, ObservedState(), now, subject.status)  # type: ignore[arg-type]
    builder.set_condition("Scheduled", False, "NotMade", message, warning=True)
    builder.set_message(message)
    builder.requeue(wait)
    return builder.decision()
