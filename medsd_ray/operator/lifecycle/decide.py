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
from medsd_ray.operator.lifecycle.attempt import running, starting, suspending
from medsd_ray.operator.lifecycle.decision import Decision, Facts, Turn
from medsd_ray.operator.lifecycle.failures import Failure
from medsd_ray.operator.lifecycle.start import pending, retrying, waiting_for_resume
from medsd_ray.operator.lifecycle.transitions import delete, fail, finished
from medsd_ray.operator.subject import Subject

PHASES = {
    "Pending": pending,
    "Queued": starting,
    "Starting": starting,
    "Running": running,
    "Suspending": suspending,
    "Suspended": waiting_for_resume,
    "Retrying": retrying,
    "Succeeded": finished,
    "Failed": finished,
}


def decide(subject: Subject, facts: Facts, now: datetime) -> Decision:
    """What becomes of the object now."""
    if subject.spec is None:
        return _unreadable(subject, facts, now)
    turn = Turn(subject, subject.spec, facts, now, subject.status)
    turn.set(observedGeneration=subject.generation)
    for rayjob in facts.older:
        delete(turn, rayjob)
    PHASES[turn.status.phase](turn)
    if turn.status.phase != "Running":
        turn.drop("Stalled")
    progress.addresses(turn)
    return turn.decision()


def _unreadable(subject: Subject, facts: Facts, now: datetime) -> Decision:
    """A spec that the API server took and the models refuse. What runs already is left alone."""
    words = subject.refusal or ""
    turn = Turn(subject, None, facts, now, subject.status)  # type: ignore[arg-type]
    turn.set(observedGeneration=subject.generation)
    turn.condition("Accepted", False, "InvalidSpec", words)
    if subject.status.phase == "Pending":
        fail(turn, Failure("final", "InvalidSpec", words))
    return turn.decision()


def not_made(subject: Subject, words: str, wait: float, now: datetime) -> Decision:
    """An attempt that cannot be made, and is tried again after `wait` seconds."""
    turn = Turn(subject, subject.spec, Facts(), now, subject.status)  # type: ignore[arg-type]
    turn.condition("Scheduled", False, "NotMade", words, warning=True)
    turn.say(words)
    turn.look_again(wait)
    return turn.decision()
