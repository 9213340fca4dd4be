"""The status of a FineTune, a Study or an Evaluation: what the operator says of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from medsd_ray.spec.rules import SpecModel
from medsd_ray.spec.types import Text, Time, keyed

Phase = Literal[
    "Pending", "Queued", "Starting", "Running", "Suspending", "Suspended", "Retrying", "Succeeded", "Failed"
]

Stage = Literal["train", "search", "generate", "evaluate", "archive", "done"]

Address = Annotated[str, Field(max_length=2048)]  # room for what medsd adds to a Text of the spec


class Condition(SpecModel):
    """Kubernetes' standard condition."""

    type: Annotated[str, Field(max_length=64, description="what the condition is about, such as Accepted")]
    status: Literal["True", "False", "Unknown"] = Field(description="whether it holds")
    reason: Annotated[str, Field(max_length=64, description="why, in one word for programs")]
    message: Annotated[str, Field(max_length=4096, description="why, in words for people")]
    lastTransitionTime: Time = Field(description="when `status` last changed")
    observedGeneration: int = Field(default=0, description="metadata.generation of which it speaks")


class Attempt(SpecModel):
    """One RayJob. Its number is part of the RayJob's name and submission id, so that none is made twice."""

    number: int = Field(default=0, description="from 1; 0: there was none yet")
    rayJob: Text | None = Field(default=None, description="name of the RayJob")
    uid: Text | None = Field(default=None, description="of the RayJob, once it was made")
    headPodUID: Text | None = Field(
        default=None, description="of the head pod that took the job: another one means it was lost"
    )
    startTime: Time | None = Field(default=None, description="from when startDeadlineSeconds counts")
    runningTime: Time | None = Field(default=None, description="when the job itself began")


class Failures(SpecModel):
    """How often an attempt has failed, by kind; spec.retries says how often it may."""

    infrastructure: int = Field(
        default=0, description="after a lost node, head or worker, an eviction, a failed start"
    )
    application: int = Field(default=0, description="of the run itself")


class Progress(SpecModel):
    """Written by a field manager of its own (medsd-progress), from what the run says of itself."""

    stage: Stage | None = Field(default=None, description="the step of the job that runs now")
    step: int | None = Field(
        default=None, description="optimizer steps that are done; of a study: trials that have ended"
    )
    totalSteps: int | None = Field(
        default=None, description="optimizer steps in all; of a study: trials in all"
    )
    best: float | None = Field(default=None, description="of a study: the best value of its metric so far")
    loss: float | None = Field(default=None, description="training loss at `step`")
    imagesPerSecond: float | None = Field(default=None, description="training speed over all workers")
    etaSeconds: float | None = Field(default=None, description="seconds left, as estimated from the speed")
    timeLeft: Annotated[str, Field(max_length=32)] | None = Field(
        default=None, description="etaSeconds in words, such as 1:02:03"
    )
    lastCheckpointStep: int | None = Field(default=None, description="of the newest complete checkpoint")
    lastUpdateTime: Time | None = Field(default=None, description="when the run last wrote its progress")


class Addresses(SpecModel):
    """Where to find what the run wrote, and its pages."""

    output: Address | None = Field(default=None, description="folder for all that the run writes")
    report: Address | None = Field(default=None, description="of report.html, once written")
    logs: Address | None = Field(
        default=None, description="folder with the archived logs and events of each attempt"
    )
    dashboard: Address | None = Field(default=None, description="Ray's own, while the cluster is there")


class Status(SpecModel):
    """What the operator says of the object."""

    phase: Phase = Field(default="Pending", description="where the object is on its way from start to end")
    message: Annotated[str, Field(max_length=4096)] = Field(
        default="", description="in one line, what it waits for or why it ended"
    )
    observedGeneration: int = Field(
        default=0, description="metadata.generation of the spec that the operator acted on last"
    )
    conditions: Annotated[list[Condition], Field(max_length=16, json_schema_extra=keyed("type"))] = Field(
        default=[], description="Kubernetes' standard conditions"
    )
    attempt: Attempt = Attempt()
    failures: Failures = Failures()
    retryTime: Time | None = Field(default=None, description="when the next attempt starts, after a failure")
    startTime: Time | None = Field(default=None, description="when the first attempt was made")
    completionTime: Time | None = Field(default=None, description="when the object succeeded or failed")
    activeSeconds: float = Field(default=0, description="running time of the attempts before this one")
    progress: Progress | None = None
    addresses: Addresses | None = None
