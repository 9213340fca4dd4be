"""The Runtime, which a platform team owns: image, node pools and S3. It alone speaks of pods.

Raw parts of a pod (tolerations, affinity, volumes) are Kubernetes' own and pass through as they are.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from medsd_ray.spec.rules import Rule, SpecModel
from medsd_ray.spec.types import (
    Labels,
    Name,
    Quantity,
    Raw,
    RawList,
    Seconds,
    Subdomain,
    Text,
    keyed,
)


class S3(SpecModel):
    """The storage of data, models and outputs."""

    endpoint: Annotated[Text, Field(pattern="^https?://")] | None = Field(
        default=None, description="URL of the S3 server, as a pod reaches it; AWS itself where absent"
    )
    region: Text = Field(default="us-east-1", description="AWS region, or what the S3 server takes for one")
    secretName: Subdomain | None = Field(
        default=None,
        description="a Secret in the run's namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; where "
        "absent, the service account's own identity",
    )


class Head(SpecModel):
    """The pod that runs Ray's head and the run's driver; it trains nothing."""

    cpus: Quantity = Field(default="1", description="CPUs that the head pod requests")
    memory: Quantity = Field(default="4Gi", description="memory that the head pod requests, and its limit")
    nodeSelector: Labels = Field(default={}, description="labels of the nodes that the head pod may run on")
    tolerations: RawList = Field(
        default=[], description="of the head pod: taints that it tolerates, as Kubernetes has them"
    )
    affinity: Raw = Field(default={}, description="of the head pod, as Kubernetes has it")


class Pool(SpecModel):
    """One kind of node, and how much of it a worker pod takes."""

    name: Name = Field(description="by which a run chooses the pool")
    gpus: int = Field(
        default=0,
        ge=0,
        le=16,
        description="of a worker pod; each worker of a run takes one, so a pod holds this many",
    )
    gpuResource: Annotated[Text, Field(pattern=r"^[-.a-z0-9]+/[-._A-Za-z0-9]+$")] = Field(
        default="nvidia.com/gpu", description="the resource that the nodes' device plugin offers"
    )
    cpus: Quantity = Field(default="4", description="CPUs that a worker pod requests")
    memory: Quantity = Field(default="16Gi", description="memory that a worker pod requests, and its limit")
    sharedMemory: Quantity = Field(
        default="2Gi", description="of a worker pod's /dev/shm, counted against memory"
    )
    maxPods: int = Field(default=64, ge=1, le=4096, description="worker pods of one run at most")
    nodeSelector: Labels = Field(default={}, description="labels of the pool's nodes")
    tolerations: RawList = Field(
        default=[], description="of a worker pod: taints that it tolerates, as Kubernetes has them"
    )
    affinity: Raw = Field(default={}, description="of a worker pod, as Kubernetes has it")

    # The API server alone parses quantities.
    rules = (
        Rule(
            "quantity(self.sharedMemory).isLessThan(quantity(self.memory))",
            "sharedMemory must be below memory, of which it is a part",
        ),
    )


class Defaults(SpecModel):
    """What a run gets where it says nothing itself."""

    startDeadlineSeconds: Seconds | None = Field(
        default=None, description="from an attempt's start until its workers run"
    )
    ttlSecondsAfterFinished: int | None = Field(
        default=None, ge=0, description="after which a finished object is deleted; its data stays"
    )


class RuntimeSpec(SpecModel):
    """What a platform team owns: image, node pools, S3. A run names a Runtime and says nothing about pods."""

    image: Text = Field(description="with medsd and Ray, for head and workers")
    imagePullPolicy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="when a node fetches the image, as Kubernetes has it"
    )
    imagePullSecrets: Annotated[list[Subdomain], Field(max_length=8)] = Field(
        default=[], description="Secrets in the run's namespace with the credentials of the image's registry"
    )
    allowedNamespaces: Annotated[list[Name], Field(max_length=1024)] | None = Field(
        default=None, description="namespaces whose objects may name this Runtime; all of them where absent"
    )
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
    volumes: RawList = Field(default=[], description="more volumes of every pod, as Kubernetes has them")
    volumeMounts: RawList = Field(
        default=[], description="where every Ray container mounts them, as Kubernetes has it"
    )
    runAsUser: int = Field(default=1000, ge=1, description="user id of every container; never root")
    defaults: Defaults = Defaults()
