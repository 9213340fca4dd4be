"""Before an attempt and between two: the phases Pending, Suspended and Retrying."""

from __future__ import annotations

from medsd_ray.operator.lifecycle.decision import MakeAttempt, Turn
from medsd_ray.operator.lifecycle.transitions import cleared, delete, suspended
from medsd_ray.operator.manifests.rayjob import Refused, output_of, plan
from medsd_ray.spec.objects import Attempt

STARTING_S = 15.0
"""Between two looks at pods that start; what happens to them is seen at once."""


def pending(turn: Turn) -> None:
    if turn.spec.suspend:
        suspended(turn, "nothing runs until spec.suspend is false")
    else:
        begin(turn)


def waiting_for_resume(turn: Turn) -> None:
    if turn.facts.rayjob is not None:
        delete(turn, turn.facts.rayjob)
    if not turn.spec.suspend and cleared(turn):
        begin(turn)


def retrying(turn: Turn) -> None:
    if turn.facts.rayjob is not None:
        delete(turn, turn.facts.rayjob)
    if not cleared(turn):
        return
    wait = -turn.since(turn.status.retryTime)
    if turn.spec.suspend:
        suspended(turn, "suspended between two attempts; all its pods are gone")
    elif wait > 0:
        turn.look_again(wait)
    else:
        begin(turn)


def begin(turn: Turn) -> None:
    """The next attempt, or the words why it cannot begin. Its number is on record before it is made."""
    number = turn.attempt.number + 1
    made = make(turn, number)
    if made is None:
        return
    turn.set(
        attempt=Attempt(number=number, rayJob=made.plan.name, startTime=turn.stamp),
        startTime=turn.status.startTime or turn.stamp,
        retryTime=None,
    )
    turn.drop("Suspended", "Scheduled")
    if turn.spec.queue:
        turn.to("Queued", "Queued", f"attempt {number} waits in queue {turn.spec.queue}")
    else:
        turn.to("Starting", "Starting", f"attempt {number} starts as RayJob {made.plan.name}")
    turn.do(made)
    turn.look_again(STARTING_S)


def make_again(turn: Turn) -> None:
    """An attempt that is on record and was not made: the operator ended in between, or the API server refused
    it.
    """
    if turn.spec.suspend:
        suspended(turn, "suspended before the attempt was made")
        return
    made = make(turn, turn.attempt.number)
    if made is not None:
        turn.do(made)
        turn.look_again(STARTING_S)


def make(turn: Turn, number: int) -> MakeAttempt | None:
    """None, and the reason in the Accepted condition, where the runtime does not allow it or its output is
    another's.
    """
    facts, name = turn.facts, turn.spec.runtime
    try:
        if facts.runtime_refusal:
            raise Refused("RuntimeInvalid", facts.runtime_refusal)
        if facts.runtime is None:
            raise Refused(
                "RuntimeNotFound",
                f"there is no Runtime {name}; `kubectl get runtimes` lists those that are there",
            )
        if facts.holder:
            turn.look_again(STARTING_S)
            words = f"{facts.holder} writes to {output_of(turn.spec)} and is not finished; delete it or choose another output"
            raise Refused("OutputInUse", words)
        made = MakeAttempt(plan(turn.subject, facts.runtime, number))
    except Refused as refusal:
        turn.condition("Accepted", False, refusal.reason, str(refusal), warning=True)
        turn.say(str(refusal))
        return None
    turn.condition(
        "Accepted",
        True,
        "Accepted",
        f"runs on runtime {name}, pool {turn.spec.pool or facts.runtime.pools[0].name}",
    )
    return made
