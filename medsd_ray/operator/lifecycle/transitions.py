"""How an attempt ends: in success, in a failure that is retried or final, or suspended."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from medsd_ray.operator.lifecycle.decision import DeleteRayJob, DeleteSelf, Turn
from medsd_ray.operator.lifecycle.failures import Failure, ended, failure_of, succeeded
from medsd_ray.operator.lifecycle.pods import is_going
from medsd_ray.operator.times import stamp

LONGEST_BACKOFF_S = 300


CLEARING_S = 2.0
"""Between two looks at what is being deleted."""

STUCK_S = 60.0
"""A pod or RayJob that should have been gone this long ago is on a node that is lost: the next attempt does
not wait for it.
"""


def over(turn: Turn) -> bool:
    """Whether the RayJob has ended; if so, ends the attempt with it."""
    rayjob = turn.facts.rayjob
    if rayjob is None or not ended(rayjob):
        return False
    if succeeded(rayjob):
        succeed(turn)
    else:
        fail(turn, failure(turn))
    return True


def failure(turn: Turn) -> Failure:
    error = turn.facts.driver.error if turn.facts.driver else None
    return failure_of(turn.facts.rayjob or {}, turn.pods, turn.gone, error)


def succeed(turn: Turn) -> None:
    turn.set(completionTime=turn.stamp)
    turn.drop("Suspended")
    turn.condition("Complete", True, "Succeeded", "the run is done")
    turn.to("Succeeded", "Succeeded", "the run is done")
    turn.look_again(0)


def lose(turn: Turn, reason: str, words: str) -> None:
    fail(turn, Failure("infrastructure", reason, words))


def fail(turn: Turn, failure: Failure) -> None:
    """A retry within the budget of its class, or the end."""
    turn.drop("Scheduled", "Suspended")
    if failure.kind != "final":
        count = getattr(turn.status.failures, failure.kind) + 1
        budget = getattr(turn.spec.retries, failure.kind)
        turn.set(failures=turn.status.failures.model_copy(update={failure.kind: count}))
        if count <= budget:
            _retry(turn, failure, count, budget)
            return
        if budget:
            failure = Failure(failure.kind, failure.reason, f"{failure.message}; no retry is left")
    turn.set(completionTime=turn.stamp)
    turn.condition("Failed", True, failure.reason, failure.message)
    turn.to("Failed", failure.reason, failure.message, warning=True)
    turn.look_again(0)


def _retry(turn: Turn, failure: Failure, count: int, budget: int) -> None:
    stop_clock(turn)
    wait = min(LONGEST_BACKOFF_S, turn.spec.retries.backoffSeconds * 2 ** min(count - 1, 10))
    turn.set(retryTime=stamp(turn.now + timedelta(seconds=wait)))
    words = f"{failure.message}; retry {count} of {budget} in {wait} s, from the newest checkpoint"
    turn.to("Retrying", failure.reason, words, warning=True)
    turn.look_again(0)


def finished(turn: Turn) -> None:
    """KubeRay frees the pods of a RayJob that has ended; all else is deleted here, and in the end the object
    itself.
    """
    rayjob = turn.facts.rayjob
    if rayjob is not None and not ended(rayjob):
        delete(turn, rayjob)
    ttl = turn.spec.ttlSecondsAfterFinished
    if ttl is None and turn.facts.runtime is not None:
        ttl = turn.facts.runtime.defaults.ttlSecondsAfterFinished
    if ttl is None or turn.status.completionTime is None:
        return
    left = ttl - turn.since(turn.status.completionTime)
    if left > 0:
        turn.look_again(left)
    else:
        turn.do(DeleteSelf())


def suspended(turn: Turn, words: str) -> None:
    """Nothing runs any more, and no pod is left."""
    stop_clock(turn)
    turn.set(retryTime=None)
    turn.drop("Scheduled")
    turn.condition("Suspended", True, "Suspended", words)
    turn.to("Suspended", "Suspended", words)
    if not turn.spec.suspend:
        turn.look_again(0)


def stop_clock(turn: Turn) -> None:
    """Adds the attempt's running time to that of all before it, as another will follow."""
    if turn.attempt.runningTime:
        turn.set(activeSeconds=turn.status.activeSeconds + turn.since(turn.attempt.runningTime))
        turn.set_attempt(runningTime=None)


def delete(turn: Turn, rayjob: dict[str, Any]) -> None:
    if not is_going(rayjob):
        turn.do(DeleteRayJob(rayjob["metadata"]["name"], rayjob["metadata"]["uid"]))
        turn.look_again(CLEARING_S)


def cleared(turn: Turn) -> bool:
    """Whether all attempts are gone, but for what a lost node keeps."""
    rayjob = turn.facts.rayjob
    left = [made for made in [*([rayjob] if rayjob else []), *turn.facts.pods] if not _stuck(turn, made)]
    if left:
        turn.look_again(CLEARING_S)
    return not left


def _stuck(turn: Turn, made: dict[str, Any]) -> bool:
    return is_going(made) and turn.since(made["metadata"]["deletionTimestamp"]) > STUCK_S
