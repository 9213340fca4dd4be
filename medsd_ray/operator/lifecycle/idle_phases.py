"""Before an attempt and between two: the phases Pending, Suspended and Retrying."""

from __future__ import annotations

from medsd_ray.operator.lifecycle.decision import CreateAttempt, DecisionBuilder
from medsd_ray.operator.lifecycle.transitions import delete_rayjob, is_cleared, set_suspended
from medsd_ray.operator.manifests.rayjob import Refused, output_of, plan
from medsd_ray.spec.status import Attempt

STARTING_S = 15.0
"""Seconds between two looks at pods that start; the watches tell of what happens to them at once."""


def handle_pending(builder: DecisionBuilder) -> None:
    if builder.spec.suspend:
        set_suspended(builder, "nothing runs until spec.suspend is false")
    else:
        begin_attempt(builder)


def handle_suspended(builder: DecisionBuilder) -> None:
    if builder.observed.rayjob is not None:
        delete_rayjob(builder, builder.observed.rayjob)
    if not builder.spec.suspend and is_cleared(builder):
        begin_attempt(builder)


def handle_retrying(builder: DecisionBuilder) -> None:
    if builder.observed.rayjob is not None:
        delete_rayjob(builder, builder.observed.rayjob)
    if not is_cleared(builder):
        return
    wait = -builder.seconds_since(builder.status.retryTime)
    if builder.spec.suspend:
        set_suspended(builder, "suspended between two attempts; all its pods are gone")
    elif wait > 0:
        builder.requeue(wait)
    else:
        begin_attempt(builder)


def begin_attempt(builder: DecisionBuilder) -> None:
    """Begins the next attempt, or says why it cannot begin. Its number is on record before it is made."""
    number = builder.attempt.number + 1
    creation = plan_attempt(builder, number)
    if creation is None:
        return
    builder.set(
        attempt=Attempt(number=number, rayJob=creation.plan.name, startTime=builder.timestamp),
        startTime=builder.status.startTime or builder.timestamp,
        retryTime=None,
    )
    builder.drop_conditions("Suspended", "Scheduled")
    if builder.spec.queue:
        builder.set_phase("Queued", "Queued", f"attempt {number} waits in queue {builder.spec.queue}")
    else:
        builder.set_phase("Starting", "Starting", f"attempt {number} starts as RayJob {creation.plan.name}")
    builder.add_action(creation)
    builder.requeue(STARTING_S)


def create_attempt_again(builder: DecisionBuilder) -> None:
    """Creates an attempt that is on record and was not made: the operator ended in between, or the API server
    refused it.
    """
    if builder.spec.suspend:
        set_suspended(builder, "suspended before the attempt was made")
        return
    creation = plan_attempt(builder, builder.attempt.number)
    if creation is not None:
        builder.add_action(creation)
        builder.requeue(STARTING_S)


def plan_attempt(builder: DecisionBuilder, number: int) -> CreateAttempt | None:
    """The action that creates attempt `number`. None, with the reason in the Accepted condition, where the
    Runtime does not allow it or another object writes to its output.
    """
    observed, runtime = builder.observed, builder.spec.runtime
    try:
        if observed.runtime_error:
            raise Refused("RuntimeInvalid", observed.runtime_error)
        if observed.runtime is None:
            raise Refused(
                "RuntimeNotFound",
                f"there is no Runtime {runtime}; `kubectl get runtimes` lists those that are there",
            )
        if observed.output_writer:
            builder.requeue(STARTING_S)
            raise Refused(
                "OutputInUse",
                f"{observed.output_writer} writes to {output_of(builder.spec)} and is not finished; "
                "delete it or choose another output",
            )
        creation = CreateAttempt(plan(builder.subject, observed.runtime, number, observed.poll_key))
    except Refused as refusal:
        builder.set_condition("Accepted", False, refusal.reason, str(refusal), warning=True)
        builder.set_message(str(refusal))
        return None
    builder.set_condition(
        "Accepted",
        True,
        "Accepted",
        f"runs on runtime {runtime}, pool {builder.spec.pool or observed.runtime.pools[0].name}",
    )
    return creation
