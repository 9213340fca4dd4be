"""What an attempt is made of: a ConfigMap that says what to run and a RayJob that runs it. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from medsd_ray.addresses import canonical
from medsd_ray.documents import to_yaml
from medsd_ray.operator.manifests import pods
from medsd_ray.operator.manifests.naming import attempt_labels, attempt_name, owner_reference
from medsd_ray.operator.manifests.poll_token import poll_token, token_sha256
from medsd_ray.operator.subject import Subject
from medsd_ray.runs.names import REPORT, REPORT_PAGE, STUDY_TABLE
from medsd_ray.spec.objects import EvaluationSpec, JobSpec, StudyJobSpec
from medsd_ray.spec.runtime import Pool, RuntimeSpec

JOB_FILE = "/etc/medsd/job.yaml"


ENTRYPOINT = f"python -m medsd_ray.operator.entrypoint {JOB_FILE}"
"""The driver by its former name: a Runtime's image may be older than this operator, and without
`medsd_ray.driver`.
"""


NO_SECOND_HEAD = {"ray.io/disable-provisioned-head-restart": "true"}
"""KubeRay would put a new head in a lost one's place and submit the job there again, as the same attempt."""


QUEUE = "kueue.x-k8s.io/queue-name"


class Refused(Exception):
    """The runtime cannot run this object. `reason` in CamelCase, the words as the message."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Size:
    """Worker pods of an attempt: it starts with `least` of them, and takes up to `most`."""

    least: int
    most: int


@dataclass(frozen=True)
class Plan:
    name: str
    configmap: dict[str, Any]
    rayjob: dict[str, Any]


def plan(subject: Subject, runtime: RuntimeSpec, number: int, poll_key: bytes | None = None) -> Plan:
    """The ConfigMap and RayJob of attempt `number`. Without a `poll_key` its driver asks for no token. Raises
    Refused.
    """
    spec = subject.spec
    if spec is None:
        raise ValueError(f"{subject.name} has no readable spec")  # the caller looks at `refusal` first
    if runtime.allowedNamespaces is not None and subject.namespace not in runtime.allowedNamespaces:
        raise Refused(
            "NamespaceNotAllowed",
            f"runtime {spec.runtime} is not for objects of namespace {subject.namespace}; name another one, "
            "or have its owner add the namespace to allowedNamespaces",
        )
    pool = pool_of(spec, runtime)
    size = size_of(spec, pool)
    name = attempt_name(subject.kind, subject.name, number)
    meta = {
        "name": name,
        "namespace": subject.namespace,
        "labels": attempt_labels(subject.kind, subject.name, subject.uid, number),
        "ownerReferences": [owner_reference(subject.kind, subject.name, subject.uid)],
    }
    configmap = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": meta,
        "data": {"job.yaml": to_yaml(job(spec, pool, number))},
    }
    queue = {QUEUE: spec.queue} if spec.queue else {}
    token = token_sha256(poll_token(poll_key, subject.uid, number)) if poll_key else None
    rayjob = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {**meta, "labels": {**meta["labels"], **queue}, "annotations": dict(NO_SECOND_HEAD)},
        "spec": {
            "submissionMode": "HTTPMode",
            "jobId": name,
            "entrypoint": ENTRYPOINT,
            "backoffLimit": 0,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 0,
            "suspend": bool(spec.queue),  # until Kueue admits it
            "rayClusterSpec": {
                "rayVersion": runtime.rayVersion,
                "authOptions": {"mode": "token"},
                "headGroupSpec": pods.head_group(runtime, spec, name, meta["labels"], token),
                "workerGroupSpecs": [
                    pods.worker_group(runtime, spec, pool, size.least, size.most, meta["labels"])
                ],
            },
        },
    }
    return Plan(name, configmap, rayjob)


def pool_of(spec: JobSpec, runtime: RuntimeSpec) -> Pool:
    """The pool that the spec names, or the runtime's first. Raises Refused."""
    if spec.pool is None:
        return runtime.pools[0]
    for pool in runtime.pools:
        if pool.name == spec.pool:
            return pool
    names = ", ".join(pool.name for pool in runtime.pools)
    raise Refused("PoolNotFound", f"runtime {spec.runtime} has no pool {spec.pool}; choose one of: {names}")


def size_of(spec: JobSpec, pool: Pool) -> Size:
    """How many pods of the pool the workers need. Raises Refused where they do not fit."""
    if isinstance(spec, EvaluationSpec):
        workers, most, cpus, field = spec.numWorkers, spec.numWorkers, 1, "numWorkers"
    elif isinstance(spec, StudyJobSpec):  # it starts with room for one trial
        workers, most = (
            spec.resources.num_workers,
            spec.resources.sizes[-1] * spec.study.search.max_concurrent,
        )
        cpus, field = spec.resources.cpus_per_worker, "study.search.max_concurrent"
    else:
        workers, most = spec.run.resources.num_workers, spec.run.resources.sizes[-1]
        cpus, field = spec.run.resources.cpus_per_worker, "run.resources"
    per_pod = max(1, pool.gpus)
    slots = pods.whole_cpus(pool.cpus)
    if per_pod * cpus > slots:
        raise Refused(
            "PoolTooSmall",
            f"a pod of pool {pool.name} holds {per_pod} worker(s) of {cpus} CPU(s), but has {pool.cpus} "
            "CPUs; lower cpus_per_worker, or choose another pool",
        )
    size = Size(math.ceil(workers / per_pod), math.ceil(most / per_pod))
    if size.most > pool.maxPods:
        raise Refused(
            "PoolTooSmall",
            f"{most} workers need {size.most} pods of pool {pool.name}, which gives a run {pool.maxPods} "
            f"at most; lower spec.{field}, or choose another pool",
        )
    return size


def job(spec: JobSpec, pool: Pool, number: int) -> dict[str, Any]:
    """job.yaml: what the entrypoint in the head pod runs."""
    retried = {"use_gpu": pool.gpus > 0, "max_failures": spec.retries.infrastructure}
    if isinstance(spec, StudyJobSpec):
        study = spec.study.model_dump(mode="json")
        study["run"] |= {"resources": (study["run"].get("resources") or {}) | retried}
        return {"attempt": number, "study": study}
    report = spec.report.model_dump(mode="json") if spec.report else None
    if isinstance(spec, EvaluationSpec):
        evaluation = {
            "model": spec.model,
            "base": spec.base,
            "output": spec.output,
            "numWorkers": spec.numWorkers,
            "useGpu": pool.gpus > 0,
        }
        return {"attempt": number, "report": report, "evaluation": evaluation}
    run = spec.run.model_copy(update={"resources": spec.run.resources.model_copy(update=retried)})
    return {"attempt": number, "run": run.model_dump(mode="json"), "report": report}


def report_of(spec: JobSpec) -> str | None:
    """Where the report is, below the output; None where there will be none."""
    if isinstance(spec, StudyJobSpec):
        return STUDY_TABLE
    return f"{REPORT}/{REPORT_PAGE}" if spec.report else None


def output_of(spec: JobSpec) -> str:
    if isinstance(spec, EvaluationSpec):
        return canonical(spec.output)
    return canonical((spec.study if isinstance(spec, StudyJobSpec) else spec.run).output)
