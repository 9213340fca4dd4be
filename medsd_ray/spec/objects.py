"""The Kubernetes objects of medsd.io/v1alpha1 as pydantic models; `crds.py` makes their CRDs' schemas of
them.

Fields of Kubernetes are in camelCase, as Kubernetes has them. A run inside a FineTune is the run of RUN.yaml,
field by field, as `run.py` declares it, and the study inside a Study that of STUDY.yaml (`study.py`). Raw
parts of a pod (tolerations, affinity, volumes) are Kubernetes' own and pass through as they are; only a
Runtime, which a platform team owns, has them.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medsd_ray.spec import plan
from medsd_ray.spec.images import GUIDANCE_SCALE, MOST_IMAGES, NUM_IMAGES, SEED, STEPS
from medsd_ray.spec.run import Resources, RunSpec
from medsd_ray.spec.study import StudySpec
from medsd_ray.spec.types import Text

GROUP, VERSION = "medsd.io", "v1alpha1"


API_VERSION = f"{GROUP}/{VERSION}"

Name = Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]


Subdomain = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")]


Quantity = Annotated[str, Field(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]


Seconds = Annotated[int, Field(ge=1, le=10**9)]


Time = Annotated[str, Field(max_length=32, json_schema_extra={"format": "date-time"})]


Labels = Annotated[dict[str, Text], Field(max_length=32)]


RawList = Annotated[list[dict[str, Any]], Field(max_length=32, description="as Kubernetes has them")]


Raw = Annotated[dict[str, Any], Field(description="as Kubernetes has it")]


def keyed(name: str) -> dict[str, Any]:
    """For a list whose items have a key: no two are the same, and server-side apply merges item by item."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [name]}


class Part(BaseModel):
    """`cel`: (rule, message) pairs that the API server checks on this object (x-kubernetes-validations)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    cel: ClassVar[tuple[tuple[str, str], ...]] = ()


# --- Runtime: what a platform team owns


class S3(Part):
    endpoint: Annotated[Text, Field(pattern="^https?://")] | None = Field(
        default=None, description="URL of the S3 server, as a pod reaches it; AWS itself where absent"
    )
    region: Text = "us-east-1"
    secretName: Subdomain | None = Field(
        default=None,
        description="a Secret in the run's namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; where absent, the "
        "service account's own identity",
    )


class Head(Part):
    """The pod that runs Ray's head and the run's driver; it trains nothing."""

    cpus: Quantity = "1"
    memory: Quantity = "4Gi"
    nodeSelector: Labels = {}
    tolerations: RawList = []
    affinity: Raw = {}


class Pool(Part):
    """One kind of node, and how much of it a worker pod takes."""

    name: Name
    gpus: int = Field(
        default=0,
        ge=0,
        le=16,
        description="of a worker pod; each worker of a run takes one, so a pod holds this many",
    )
    gpuResource: Annotated[Text, Field(pattern=r"^[-.a-z0-9]+/[-._A-Za-z0-9]+$")] = Field(
        default="nvidia.com/gpu", description="the resource that the nodes' device plugin offers"
    )
    cpus: Quantity = Field(default="4", description="of a worker pod")
    memory: Quantity = Field(default="16Gi", description="of a worker pod")
    sharedMemory: Quantity = Field(default="2Gi", description="of /dev/shm, counted against memory")
    maxPods: int = Field(default=64, ge=1, le=4096, description="of one run")
    nodeSelector: Labels = {}
    tolerations: RawList = []
    affinity: Raw = {}
    cel: ClassVar = (
        (
            "quantity(self.sharedMemory).isLessThan(quantity(self.memory))",
            "sharedMemory must be below memory, of which it is a part",
        ),
    )


class Defaults(Part):
    """What a run gets where it says nothing itself."""

    startDeadlineSeconds: Seconds | None = Field(
        default=None, description="from an attempt's start until its workers run"
    )
    ttlSecondsAfterFinished: int | None = Field(
        default=None, ge=0, description="after which a finished object is deleted; its data stays"
    )


class RuntimeSpec(Part):
    """What a platform team owns: image, node pools, S3. A run names a Runtime and says nothing about pods."""

    image: Text = Field(description="with medsd and Ray, for head and workers")
    imagePullPolicy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    imagePullSecrets: Annotated[list[Subdomain], Field(max_length=8)] = []
    rayVersion: Text = Field(default="2.60.0", description="of the image")
    serviceAccountName: Subdomain = Field(
        default="default", description="of head and workers, in the run's namespace; it needs no rights"
    )
    s3: S3 = S3()
    head: Head = Head()
    pools: Annotated[list[Pool], Field(min_length=1, max_length=16, json_schema_extra=keyed("name"))] = Field(
        description="the kinds of nodes that a run may choose from; the first is the default"
    )
    env: Annotated[dict[str, Text], Field(max_length=64)] = Field(
        default={}, description="environment of every Ray container"
    )
    volumes: RawList = []
    volumeMounts: RawList = []
    runAsUser: int = Field(default=1000, ge=1, description="never root")
    defaults: Defaults = Defaults()


# --- FineTune, Study and Evaluation: what a researcher writes

Prompt = Annotated[Text, Field(pattern=r"^[^\r\n]*[^\s][^\r\n]*$")]  # one line, not blank


class Report(Part):
    """Images to generate and to measure against real ones."""

    real: Text = Field(description="image shards that `medsd prepare` wrote; s3://")
    prompts: Annotated[list[Prompt], Field(min_length=1, max_length=64)]
    numImages: int = NUM_IMAGES.field(highest=MOST_IMAGES)
    seed: int = SEED.field(description=f"{SEED.description}; also of the classifier and the bootstrap")
    guidanceScale: float = GUIDANCE_SCALE.field()
    steps: int = STEPS.field()
    label: Text = Field(
        default="finding", description="the field of the shards' labels that the classifier learns"
    )
    base: bool = Field(
        default=True, description="also generate from the model before adaptation, as a reference (FineTune)"
    )


class Retries(Part):
    infrastructure: int = Field(
        default=5, ge=0, le=100, description="after a lost node, head or worker, an eviction, a failed start"
    )
    application: int = Field(
        default=0, ge=0, le=100, description="after the run itself failed; bad input is never retried"
    )
    backoffSeconds: Seconds = Field(
        default=10, description="before the first retry; doubles each time, up to 300"
    )


class Job(Part):
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
    cel: ClassVar = (
        (
            "self.run.output.startsWith('s3://')",
            "run.output must be an s3:// address: a pod's own folder is gone with it",
        ),
        ("self.run.data.train.startsWith('s3://')", "run.data.train must be an s3:// address"),
    )


class EvaluationSpec(Job):
    """Generate and evaluate, of a model that is there already."""

    model: Text = Field(description="a run's output, a checkpoint or a pipeline; s3:// or a hub name")
    base: Text | None = Field(default=None, description="the model before adaptation, as a reference")
    report: Report
    output: Text = Field(description="s3:// address for the images and the report")
    numWorkers: int = Field(default=1, ge=1, le=1024)
    cel: ClassVar = (
        (
            "self.output.startsWith('s3://')",
            "output must be an s3:// address: a pod's own folder is gone with it",
        ),
    )


class StudyJobSpec(Job):
    """A search by Ray Tune over a run's template; its trials share one Ray cluster."""

    study: StudySpec = Field(
        description="the study of STUDY.yaml, without its name: that is the object's own"
    )
    cel: ClassVar = (
        (
            "self.study.output.startsWith('s3://')",
            "study.output must be an s3:// address: a pod's own folder is gone with it",
        ),
        ("self.study.shards.startsWith('s3://')", "study.shards must be an s3:// address"),
        (
            "self.study.space.all(path, !path.startsWith('resources'))",
            "study.space: the trials share one cluster; set run.resources, and search.max_concurrent for how many at a time",
        ),
    )

    @model_validator(mode="after")
    def _one_cluster(self):
        if any(path.startswith("resources") for path in self.study.space):
            raise ValueError(self.cel[-1][1])
        return self

    @property
    def resources(self) -> Resources:
        """Of each trial."""
        return plan.resources(self.study, {})


JobSpec = FineTuneSpec | StudyJobSpec | EvaluationSpec

# --- Status: what the operator writes

Phase = Literal[
    "Pending", "Queued", "Starting", "Running", "Suspending", "Suspended", "Retrying", "Succeeded", "Failed"
]


class Condition(Part):
    """Kubernetes' standard condition."""

    type: Annotated[str, Field(max_length=64)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(max_length=64)]
    message: Annotated[str, Field(max_length=4096)]
    lastTransitionTime: Time
    observedGeneration: int = 0


class Attempt(Part):
    """One RayJob. Its number is part of the RayJob's name and submission id, so that none is made twice."""

    number: int = 0
    rayJob: Text | None = None
    uid: Text | None = Field(default=None, description="of the RayJob, once it was made")
    headPodUID: Text | None = Field(
        default=None, description="of the head pod that took the job: another one means it was lost"
    )
    startTime: Time | None = None
    runningTime: Time | None = Field(default=None, description="when the job itself began")


class Failures(Part):
    infrastructure: int = 0
    application: int = 0


Stage = Literal["train", "search", "generate", "evaluate", "archive", "done"]


class Progress(Part):
    """Written by a field manager of its own (medsd-progress), from what the run says of itself."""

    stage: Stage | None = None
    step: int | None = Field(default=None, description="of a study: trials that have ended")
    totalSteps: int | None = Field(default=None, description="of a study: trials in all")
    best: float | None = Field(default=None, description="of a study: the best value of its metric so far")
    loss: float | None = None
    imagesPerSecond: float | None = None
    etaSeconds: float | None = None
    timeLeft: Annotated[str, Field(max_length=32)] | None = Field(
        default=None, description="etaSeconds in words, such as 1:02:03"
    )
    lastCheckpointStep: int | None = Field(default=None, description="of the newest complete checkpoint")
    lastUpdateTime: Time | None = Field(default=None, description="when the run last wrote its progress")


Address = Annotated[str, Field(max_length=2048)]  # room for what medsd adds to a Text of the spec


class Addresses(Part):
    output: Address | None = None
    report: Address | None = Field(default=None, description="of report.html, once written")
    logs: Address | None = Field(
        default=None, description="folder with the archived logs and events of each attempt"
    )
    dashboard: Address | None = Field(default=None, description="Ray's own, while the cluster is there")


class Status(Part):
    """What the operator says of the object."""

    phase: Phase = "Pending"
    message: Annotated[str, Field(max_length=4096)] = Field(
        default="", description="in one line, what it waits for or why it ended"
    )
    observedGeneration: int = 0
    conditions: Annotated[list[Condition], Field(max_length=16, json_schema_extra=keyed("type"))] = []
    attempt: Attempt = Attempt()
    failures: Failures = Failures()
    retryTime: Time | None = None
    startTime: Time | None = None
    completionTime: Time | None = None
    activeSeconds: float = Field(default=0, description="running time of the attempts before this one")
    progress: Progress | None = None
    addresses: Addresses | None = None


PLURALS = {"FineTune": "finetunes", "Study": "studies", "Evaluation": "evaluations"}
