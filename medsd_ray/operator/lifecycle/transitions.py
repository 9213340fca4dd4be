"""How an attempt ends: in success, in a failure that is retried or final, or suspended."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from medsd_ray.operator.lifecycle.decision import DecisionBuilder, DeleteObject, DeleteRayJob
from medsd_ray.operator.lifecycle.failures import Failure, ended, failure_of, succeeded
from medsd_ray.operator.lifecycle.pods import is_going
from medsd_ray.times import stamp

LONGEST_BACKOFF_S = 300


CLEARING_S = 2.0
"""Between two looks at what is being deleted."""

STUCK_S = 60.0
"""A pod or RayJob that should have been gone this long ago is on a node that is lost: the next attempt does
not wait for it.
"""


def end_with_rayjob(builder: DecisionBuilder) -> bool:
    """Whether the RayJob has ended; if so, ends the attempt with it."""
    rayjob = builder.observed.rayjob
    if rayjob is None or not ended(rayjob):
        return False
    if succeeded(rayjob):
        succeed(builder)
    else:
        fail(builder, attempt_failure(builder))
    return True


def attempt_failure(builder: DecisionBuilder) -> Failure:
    error = builder.observed.driver.error if builder.observed.driver else None
    return failure_of(builder.observed.rayjob or {}, builder.pods, builder.deleted_pods, error)


def succeed(builder: DecisionBuilder) -> None:
    builder.set(completionTime=builder.timestamp)
    builder.drop_conditions("Suspended")
    builder.set_condition("Complete", True, "Succeeded", "the run is done")
    builder.set_phase("Succeeded", "Succeeded", "the run is done")
    builder.requeue(0)


def fail_infrastructure(builder: DecisionBuilder, reason: str, message: str) -> None:
    fail(builder, Failure("infrastructure", reason, message))


def fail(builder: DecisionBuilder, failure: Failure) -> None:
    """A retry within the budget of its class, or the end."""
    builder.drop_conditions("Scheduled", "Suspended")
    if failure.kind != "final":
        count = getattr(builder.status.failures, failure.kind) + 1
        budget = getattr(builder.spec.retries, failure.kind)
        builder.set(failures=builder.status.failures.model_copy(update={failure.kind: count}))
        if count <= budget:
            _retry(builder, failure, count, budget)
            return
        if budget:
            failure = Failure(failure.kind, failure.reason, f"{failure.message}; no retry is left")
    builder.set(completionTime=builder.timestamp)
    builder.set_condition("Failed", True, failure.reason, failure.message)
    builder.set_phase("Failed", failure.reason, failure.message, warning=True)
    builder.requeue(0)


def _retry(builder: DecisionBuilder, failure: Failure, count: int, budget: int) -> None:
    add_active_time(builder)
    wait = min(LONGEST_BACKOFF_S, builder.spec.retries.backoffSeconds * 2 ** min(count - 1, 10))
    builder.set(retryTime=stamp(builder.now + timedelta(seconds=wait)))
    message = f"{failure.message}; retry {count} of {budget} in {wait} s, from the newest checkpoint"
    builder.set_phase("Retrying", failure.reason, message, warning=True)
    builder.requeue(0)


def handle_finished(builder: DecisionBuilder) -> None:
    """KubeRay frees the pods of a RayJob that has ended; all else is deleted here, and in the end the object
    itself.
    """
    rayjob = builder.observed.rayjob
    if rayjob is not None and not ended(rayjob):
        delete_rayjob(builder, rayjob)
    ttl = builder.spec.ttlSecondsAfterFinished
    if ttl is None and builder.observed.runtime is not None:
        ttl = builder.observed.runtime.defaults.ttlSecondsAfterFinished
    if ttl is None or builder.status.completionTime is None:
        return
    left = ttl - builder.seconds_since(builder.status.completionTime)
    if left > 0:
        builder.requeue(left)
    else:
        builder.add_action(DeleteObject())


def set_suspended(builder: DecisionBuilder, message: str) -> None:
    """Nothing runs any more, and no pod is left."""
    add_active_time(builder)
    builder.set(retryTime=None)
    builder.drop_conditions("Scheduled")
    builder.set_condition("Suspended", True, "Suspended", message)
    builder.set_phase("Suspended", "Suspended", message)
    if not builder.spec.suspend:
        builder.requeue(0)


def add_active_time(builder: DecisionBuilder) -> None:
    """Adds the attempt's running time to that of all before it, as another will follow."""
    if builder.attempt.runningTime:
        builder.set(
            activeSeconds=builder.status.activeSeconds + builder.seconds_since(builder.attempt.runningTime)
        )
        builder.set_attempt(runningTime=None)


def delete_rayjob(builder: DecisionBuilder, rayjob: dict[str, Any]) -> None:
    if not is_going(rayjob):
        builder.add_action(DeleteRayJob(rayjob["metadata"]["name"], rayjob["metadata"]["uid"]))
        builder.requeue(CLEARING_S)


def is_cleared(builder: DecisionBuilder) -> bool:
    """Whether all attempts are gone, but for what a lost node keeps."""
    rayjob = builder.observed.rayjob
    left = [
        obj for obj in [*([rayjob] if rayjob else []), *builder.observed.pods] if not _stuck(builder, obj)
    ]
    if left:
        builder.requeue(CLEARING_S)
    return not left


def _stuck(builder: DecisionBuilder, obj: dict[str, Any]) -> bool:
    return is_going(obj) and builder.seconds_since(obj["metadata"]["deletionTimestamp"]) > STUCK_S
