"""One turn of the state machine: the status as it becomes, and what is to be done about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from medsd_ray.driver.protocol import Answer
from medsd_ray.operator.lifecycle.pods import Pod
from medsd_ray.operator.manifests.naming import attempt_of
from medsd_ray.operator.manifests.rayjob import Plan
from medsd_ray.operator.subject import Subject
from medsd_ray.operator.times import moment, stamp
from medsd_ray.spec.objects import Attempt, Condition, JobSpec, Phase, RuntimeSpec, Status

LONGEST_MESSAGE = 4096


@dataclass(frozen=True)
class Facts:
    """What is there. `rayjob`: of the current attempt; `older`: RayJobs of earlier ones. `pods`: of all
    attempts; `gone`: pods that were there, as they were last seen. `events`: of the current attempt's pods,
    oldest first. `runtime_refusal`: why the Runtime cannot be read. `holder`: before the first attempt,
    another unfinished object that writes to the same output.
    """

    runtime: RuntimeSpec | None = None
    runtime_refusal: str | None = None
    rayjob: dict[str, Any] | None = None
    older: tuple[dict[str, Any], ...] = ()
    pods: tuple[dict[str, Any], ...] = ()
    gone: tuple[dict[str, Any], ...] = ()
    events: tuple[dict[str, Any], ...] = ()
    driver: Answer | None = None
    holder: str | None = None


@dataclass(frozen=True)
class MakeAttempt:
    plan: Plan


@dataclass(frozen=True)
class DeleteRayJob:
    """In the foreground: it is gone when its pods are."""

    name: str
    uid: str


@dataclass(frozen=True)
class ScaleWorkers:
    """Of a RayCluster's one worker group; `without`: names of pods to delete."""

    cluster: str
    replicas: int
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeleteSelf:
    pass


Action = MakeAttempt | DeleteRayJob | ScaleWorkers | DeleteSelf


@dataclass(frozen=True)
class Event:
    kind: str  # Normal or Warning
    reason: str
    message: str


@dataclass(frozen=True)
class Decision:
    """`status` is written first, then the actions are carried out: what is made is always known beforehand.
    `again`: seconds until the next look, None: when something changes.
    """

    status: Status
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    again: float | None = None


@dataclass
class Turn:
    subject: Subject
    spec: JobSpec
    facts: Facts
    now: datetime
    status: Status
    actions: list[Action] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    again: float | None = None

    @property
    def attempt(self) -> Attempt:
        return self.status.attempt

    @property
    def pods(self) -> list[Pod]:
        """The current attempt's."""
        return [pod for pod in self.facts.pods if attempt_of(pod) == self.attempt.number]

    @property
    def gone(self) -> list[Pod]:
        return [pod for pod in self.facts.gone if attempt_of(pod) == self.attempt.number]

    @property
    def stamp(self) -> str:
        return stamp(self.now)

    def set(self, **fields: Any) -> None:
        self.status = self.status.model_copy(update=fields)

    def set_attempt(self, **fields: Any) -> None:
        self.set(attempt=self.attempt.model_copy(update=fields))

    def to(self, phase: Phase, reason: str, message: str, warning: bool = False) -> None:
        """Changes the phase, and says so in an event."""
        self.set(phase=phase, message=message[:LONGEST_MESSAGE])
        self.event("Warning" if warning else "Normal", reason, message)

    def say(self, message: str) -> None:
        self.set(message=message[:LONGEST_MESSAGE])

    def event(self, kind: str, reason: str, message: str) -> None:
        self.events.append(Event(kind, reason, message))

    def condition(self, kind: str, status: bool, reason: str, message: str, warning: bool = False) -> None:
        """Sets a condition. With `warning`, an event says so too, when it is new."""
        before = self.find(kind)
        word = "True" if status else "False"
        new = before is None or (before.status, before.reason) != (word, reason)
        since = before.lastTransitionTime if before and before.status == word else self.stamp
        condition = Condition(
            type=kind,
            status=word,
            reason=reason,
            message=message[:LONGEST_MESSAGE],
            lastTransitionTime=since,
            observedGeneration=self.subject.generation,
        )
        others = self.status.conditions
        at = next((i for i, c in enumerate(others) if c.type == kind), len(others))
        self.set(conditions=[*others[:at], condition, *others[at + 1 :]])
        if warning and new:
            self.event("Warning", reason, message)

    def drop(self, *kinds: str) -> None:
        self.set(conditions=[c for c in self.status.conditions if c.type not in kinds])

    def find(self, kind: str) -> Condition | None:
        return next((c for c in self.status.conditions if c.type == kind), None)

    def do(self, action: Action) -> None:
        self.actions.append(action)

    def look_again(self, seconds: float) -> None:
        """The soonest of all that ask for it."""
        seconds = max(0.0, seconds)
        self.again = seconds if self.again is None else min(self.again, seconds)

    def since(self, time: str | None) -> float:
        """Seconds since a time of the status; 0 where it is absent."""
        return (self.now - moment(time)).total_seconds() if time else 0.0

    def decision(self) -> Decision:
        return Decision(self.status, tuple(self.actions), tuple(self.events), self.again)
