"""What a researcher writes: the specs of a FineTune, a Study and an Evaluation of medsd.io/v1alpha1.

`crds.py` makes the schemas of their CRDs of these models, of `runtime.py` and of `status.py`. Fields of
Kubernetes are in camelCase, as Kubernetes has them. A run inside a FineTune is the run of RUN.yaml, field by
field, as `run.py` declares it, and the study inside a Study that of STUDY.yaml (`study.py`).
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field

from medsd_ray.spec import plan
from medsd_ray.spec.images import (
    DRIFT,
    DRIFT_WHERE,
    GUIDANCE_SCALE,
    MOST_IMAGES,
    NUM_IMAGES,
    SEED,
    STEPS,
    DriftWhere,
)
from medsd_ray.spec.rules import Rule, SpecModel
from medsd_ray.spec.run import Resources, RunSpec
from medsd_ray.spec.study import StudySpec
from medsd_ray.spec.types import Address, Name, Seconds, Subdomain, Text

GROUP, VERSION = "medsd.io", "v1alpha1"


API_VERSION = f"{GROUP}/{VERSION}"


PLURALS = {"FineTune": "finetunes", "Study": "studies", "Evaluation": "evaluations"}

Prompt = Annotated[Text, Field(pattern=r"^[^\r\n]*[^\s][^\r\n]*$")]  # one line, not blank


IN_S3 = "{}.matches('^s3://[^/]')"
"""In CEL: an address in S3, with a bucket."""


def _in_s3(address: str) -> bool:
    return re.match("s3://[^/]", address) is not None


class Report(SpecModel):
    """Images to generate and to measure against real ones; of a classifier or segmenter, its own figures on
    real ones.
    """

    real: Address = Field(description="image shards that `medsd prepare` wrote; s3://")
    prompts: Annotated[list[Prompt], Field(max_length=64)] = Field(
        default=[],
        description="what to generate images of, one line each; they take turns; none for a classifier or "
        "segmenter",
    )
    numImages: int = NUM_IMAGES.field(highest=MOST_IMAGES)
    seed: int = SEED.field(description=f"{SEED.description}; also of the classifier and the bootstrap")
    guidanceScale: float = GUIDANCE_SCALE.field()
    steps: int = STEPS.field()
    drift: float | None = DRIFT.field()
    driftWhere: DriftWhere | None = DRIFT_WHERE.field()
    label: Text = Field(
        default="finding", description="the field of the shards' labels that the classifier learns"
    )
    base: bool = Field(
        default=True, description="also generate from the model before adaptation, as a reference (FineTune)"
    )


class Retries(SpecModel):
    """How often a failed attempt is followed by another, by the kind of the failure."""

    infrastructure: int = Field(
        default=5, ge=0, le=100, description="after a lost node, head or worker, an eviction, a failed start"
    )
    application: int = Field(
        default=0, ge=0, le=100, description="after the run itself failed; bad input is never retried"
    )
    backoffSeconds: Seconds = Field(
        default=10, description="before the first retry; doubles each time, up to 300"
    )


class Job(SpecModel):
    """What all of them share: where they run, and for how long."""

    runtime: Name = Field(default="default", description="the Runtime that the platform team made")
    pool: Name | None = Field(default=None, description="of the runtime; its first where absent")
    suspend: bool = Field(
        default=False, description="true: a checkpoint, then all pods go; false again: it goes on from there"
    )
    retries: Retries = Retries()
    queue: Name | None = Field(default=None, description="Kueue's LocalQueue, in this namespace")
    priorityClassName: Subdomain | None = Field(default=None, description="of the pods")
    startDeadlineSeconds: Seconds | None = Field(default=None, description="the runtime's where absent")
    activeDeadlineSeconds: Seconds | None = Field(
        default=None, description="of running time over all attempts"
    )
    ttlSecondsAfterFinished: int | None = Field(
        default=None, ge=0, description="the runtime's where absent; the data stays"
    )
    stopGraceSeconds: Seconds = Field(default=120, description="for the checkpoint of a suspended run")

    # What may change at any time. All else is what an attempt was made from: it may change before the first
    # and while suspended.
    mutable: ClassVar = frozenset(
        [
            "suspend",
            "retries",
            "startDeadlineSeconds",
            "activeDeadlineSeconds",
            "ttlSecondsAfterFinished",
            "stopGraceSeconds",
        ]
    )


class FineTuneSpec(Job):
    """A training run, with a report where one is asked for."""

    run: RunSpec = Field(description="the run of RUN.yaml, without its name: that is the object's own")
    report: Report | None = Field(
        default=None, description="after training, images and their report; none where absent"
    )

    rules = (
        Rule(
            "!has(self.report) || (size(self.report.prompts) > 0) == has(self.run.components)",
            "report.prompts are needed where the run has components, which make images, and nowhere else",
            lambda spec: spec.report is None or bool(spec.report.prompts) == bool(spec.run.components),
        ),
        Rule(
            IN_S3.format("self.run.output"),
            "run.output must be an s3:// address: a pod's own folder is gone with it",
            lambda spec: _in_s3(spec.run.output),
        ),
        Rule(
            f"!has(self.run.data.train) || {IN_S3.format('self.run.data.train')}",
            "run.data.train must be an s3:// address",
            lambda spec: spec.run.data.train is None or _in_s3(spec.run.data.train),
        ),
        Rule(
            f"self.run.data.sources.all(source, {IN_S3.format('source.shards')})",
            "run.data.sources: their shards must be s3:// addresses",
            lambda spec: all(_in_s3(source.shards) for source in spec.run.data.sources),
        ),
    )


class EvaluationSpec(Job):
    """Generate and evaluate, of a model that is there already; without prompts the model is a classifier or
    segmenter, which is evaluated itself.
    """

    model: Address = Field(description="a run's output, a checkpoint or a pipeline; s3:// or a hub name")
    base: Address | None = Field(default=None, description="the model before adaptation, as a reference")
    report: Report
    output: Address = Field(description="s3:// address for the images and the report")
    numWorkers: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="workers that generate images; one GPU each where the pool has GPUs",
    )

    rules = (
        Rule(
            "!has(self.base) || size(self.report.prompts) > 0",
            "base is of models that make images: give report.prompts, or leave base out",
            lambda spec: spec.base is None or bool(spec.report.prompts),
        ),
        Rule(
            IN_S3.format("self.output"),
            "output must be an s3:// address: a pod's own folder is gone with it",
            lambda spec: _in_s3(spec.output),
        ),
    )


class StudyJobSpec(Job):
    """A search by Ray Tune over a run's template; its trials share one Ray cluster."""

    study: StudySpec = Field(
        description="the study of STUDY.yaml, without its name: that is the object's own"
    )

    rules = (
        Rule(
            IN_S3.format("self.study.output"),
            "study.output must be an s3:// address: a pod's own folder is gone with it",
            lambda spec: _in_s3(spec.study.output),
        ),
        Rule(
            IN_S3.format("self.study.shards"),
            "study.shards must be an s3:// address",
            lambda spec: _in_s3(spec.study.shards),
        ),
        Rule(
            "self.study.space.all(path, !path.startsWith('resources'))",
            "study.space: the trials share one cluster; set run.resources, and search.max_concurrent for how "
            "many at a time",
            lambda spec: not any(path.startswith("resources") for path in spec.study.space),
        ),
    )

    @property
    def resources(self) -> Resources:
        """Of each trial."""
        return plan.resources(self.study, {})


JobSpec = FineTuneSpec | StudyJobSpec | EvaluationSpec
