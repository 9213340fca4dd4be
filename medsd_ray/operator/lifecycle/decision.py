"""What a decision is made from, and what it is: a status, actions, events, and a time to look again."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from medsd_ray.driver.protocol import DriverAnswer
from medsd_ray.operator.lifecycle.pods import Pod
from medsd_ray.operator.manifests.naming import attempt_of
from medsd_ray.operator.manifests.rayjob import Plan
from medsd_ray.operator.subject import Subject
from medsd_ray.spec.objects import JobSpec
from medsd_ray.spec.runtime import RuntimeSpec
from medsd_ray.spec.status import Attempt, Condition, Phase, Status
from medsd_ray.times import moment, stamp

LONGEST_MESSAGE = 4096


@dataclass(frozen=True)
class ObservedState:
    """What is there for an object: the Runtime, RayJobs, pods and events, and what the driver answers."""

    runtime: RuntimeSpec | None = None
    runtime_error: str | None = None
    """Why the Runtime that is there cannot be read."""
    rayjob: dict[str, Any] | None = None
    """Of the current attempt."""
    older_rayjobs: tuple[dict[str, Any], ...] = ()
    """Of earlier attempts."""
    pods: tuple[dict[str, Any], ...] = ()
    """Of all attempts."""
    deleted_pods: tuple[dict[str, Any], ...] = ()
    """Of all attempts, as they were last seen."""
    events: tuple[dict[str, Any], ...] = ()
    """Kubernetes' events on the current attempt's pods, the oldest first."""
    driver: DriverAnswer | None = None
    output_writer: str | None = None
    """Before the first attempt: another object that is not finished and writes to the same output."""
    poll_key: bytes | None = field(default=None, repr=False)
    """From which the tokens of drivers follow; None where this operator has none."""


@dataclass(frozen=True)
class CreateAttempt:
    """Creates the attempt's ConfigMap and RayJob, unless they are there."""

    plan: Plan


@dataclass(frozen=True)
class DeleteRayJob:
    """Deletes a RayJob in the foreground: it is gone when its pods are."""

    name: str
    uid: str


@dataclass(frozen=True)
class ScaleWorkers:
    """Sets the size of a RayCluster's one worker group, and names the pods that KubeRay is to delete."""

    cluster: str
    replicas: int
    pods_to_delete: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeleteObject:
    """Deletes the FineTune, Study or Evaluation itself: its time to live is over."""


Action = CreateAttempt | DeleteRayJob | ScaleWorkers | DeleteObject


@dataclass(frozen=True)
class Event:
    """A Kubernetes event on the object."""

    kind: str  # Normal or Warning
    reason: str
    message: str


@dataclass(frozen=True)
class Decision:
    """What becomes of an object. `status` is written first and the actions are carried out then, so that what
    is made is always on record beforehand.
    """

    status: Status
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    """Seconds until the object is looked at again; None: when something changes."""


@dataclass
class DecisionBuilder:
    """A decision in the making: what it is made from, and the status, actions and events so far."""

    subject: Subject
    spec: JobSpec
    observed: ObservedState
    now: datetime
    status: Status
    actions: list[Action] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    requeue_after: float | None = None

    @property
    def attempt(self) -> Attempt:
        return self.status.attempt

    @property
    def pods(self) -> list[Pod]:
        """The current attempt's."""
        return [pod for pod in self.observed.pods if attempt_of(pod) == self.attempt.number]

    @property
    def deleted_pods(self) -> list[Pod]:
        return [pod for pod in self.observed.deleted_pods if attempt_of(pod) == self.attempt.number]

    @property
    def timestamp(self) -> str:
        return stamp(self.now)

    def set(self, **fields: Any) -> None:
        self.status = self.status.model_copy(update=fields)

    def set_attempt(self, **fields: Any) -> None:
        self.set(attempt=self.attempt.model_copy(update=fields))

    def set_phase(self, phase: Phase, reason: str, message: str, warning: bool = False) -> None:
        """Changes the phase, and says so in an event."""
        self.set(phase=phase, message=message[:LONGEST_MESSAGE])
        self.add_event("Warning" if warning else "Normal", reason, message)

    def set_message(self, message: str) -> None:
        self.set(message=message[:LONGEST_MESSAGE])

    def add_event(self, kind: str, reason: str, message: str) -> None:
        self.events.append(Event(kind, reason, message))

    def set_condition(
        self, kind: str, status: bool, reason: str, message: str, warning: bool = False
    ) -> None:
        """Sets a condition. With `warning`, an event says so too, when it is new."""
        before = self.find_condition(kind)
        word = "True" if status else "False"
        new = before is None or (before.status, before.reason) != (word, reason)
        since = before.lastTransitionTime if before and before.status == word else self.timestamp
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
            self.add_event("Warning", reason, message)

    def drop_conditions(self, *kinds: str) -> None:
        self.set(conditions=[c for c in self.status.conditions if c.type not in kinds])

    def find_condition(self, kind: str) -> Condition | None:
        return next((c for c in self.status.conditions if c.type == kind), None)

    def add_action(self, action: Action) -> None:
        self.actions.append(action)

    def requeue(self, seconds: float) -> None:
        """The object is due again in so many seconds, or earlier if something else asked for that."""
        seconds = max(0.0, seconds)
        self.requeue_after = seconds if self.requeue_after is None else min(self.requeue_after, seconds)

    def seconds_since(self, time: str | None) -> float:
        """Seconds since a time of the status; 0 where it is absent."""
        return (self.now - moment(time)).total_seconds() if time else 0.0

    def decision(self) -> Decision:
        return Decision(self.status, tuple(self.actions), tuple(self.events), self.requeue_after)
