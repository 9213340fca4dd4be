"""The pods of an attempt: Ray's head, which runs the driver, and the workers of one pool. Pure functions."""

from __future__ import annotations

import math
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from medsd_ray.driver.protocol import DRIVER_PORT, POLL_TOKEN_SHA256
from medsd_ray.spec.objects import JobSpec, StudyJobSpec
from medsd_ray.spec.runtime import Pool, RuntimeSpec

HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "medsd": DRIVER_PORT}


AGENT_PORT = 52365


HEAD_SHARED_MEMORY = "512Mi"


TRIAL_MIB = 2560
"""Measured: 1.2 GB and 0.8 GB, most of it PyTorch's and Ray's code."""


LEAST_OBJECT_STORE = 80 * 10**6
"""Bytes; Ray refuses less than 75 MiB."""


# A big image takes minutes to import Ray; the liveness probe that KubeRay sets waits until this one has
# passed.
STARTUP_PROBE = {
    "httpGet": {"path": "/api/healthz", "port": AGENT_PORT},
    "periodSeconds": 5,
    "timeoutSeconds": 5,
    "failureThreshold": 240,
}


def head_group(
    runtime: RuntimeSpec, spec: JobSpec, name: str, labels: dict[str, str], token_sha256: str | None = None
) -> dict[str, Any]:
    """`name`: of the ConfigMap with job.yaml; `token_sha256`: of the token that the driver asks for."""
    head = runtime.head
    memory = head_memory(head.memory, spec)
    container = {
        **_container(runtime, "ray-head"),
        "ports": [{"name": port, "containerPort": number} for port, number in HEAD_PORTS.items()],
        "resources": _resources(head.cpus, memory, {}),
    }
    if token_sha256:
        container["env"].append({"name": POLL_TOKEN_SHA256, "value": token_sha256})
    pod = _pod(runtime, spec, container, HEAD_SHARED_MEMORY)
    container["volumeMounts"].append({"name": "medsd-job", "mountPath": "/etc/medsd", "readOnly": True})
    pod["volumes"].append({"name": "medsd-job", "configMap": {"name": name}})
    # A head that ends is not started again in its place: its driver is gone, and a new attempt takes over.
    pod |= {"restartPolicy": "Never", **_placement(head.nodeSelector, head.tolerations, head.affinity)}
    return {
        "rayStartParams": {
            "num-cpus": "0",
            "dashboard-host": "0.0.0.0",
            "object-store-memory": object_store(HEAD_SHARED_MEMORY),
        },
        "template": {"metadata": {"labels": dict(labels)}, "spec": pod},
    }


def head_memory(quantity: str, spec: JobSpec) -> str:
    """The runtime's, and in a study as much more as its trials take there: in the head each has a process of
    its own, and Ray Train's controller. Without it Ray kills one of them, and the trial with it.
    """
    if not isinstance(spec, StudyJobSpec):
        return quantity
    return f"{math.ceil(parse_quantity(quantity) / 2**20) + TRIAL_MIB * spec.study.search.max_concurrent}Mi"


def worker_group(
    runtime: RuntimeSpec, spec: JobSpec, pool: Pool, least: int, most: int, labels: dict[str, str]
) -> dict[str, Any]:
    gpus = {pool.gpuResource: str(pool.gpus)} if pool.gpus else {}
    container = {**_container(runtime, "ray-worker"), "resources": _resources(pool.cpus, pool.memory, gpus)}
    pod = _pod(runtime, spec, container, pool.sharedMemory)
    pod |= {"restartPolicy": "Always", **_placement(pool.nodeSelector, pool.tolerations, pool.affinity)}
    return {
        "groupName": pool.name,
        "replicas": most,
        "minReplicas": least,
        "maxReplicas": most,
        "rayStartParams": {
            "num-cpus": str(whole_cpus(pool.cpus)),
            "num-gpus": str(pool.gpus),
            "object-store-memory": object_store(pool.sharedMemory),
        },
        "template": {"metadata": {"labels": dict(labels)}, "spec": pod},
    }


def _pod(runtime: RuntimeSpec, spec: JobSpec, container: dict[str, Any], shared: str) -> dict[str, Any]:
    volumes = [
        {"name": "medsd-tmp", "emptyDir": {}},
        {"name": "medsd-home", "emptyDir": {}},
        {"name": "medsd-shm", "emptyDir": {"medium": "Memory", "sizeLimit": shared}},
        *runtime.volumes,
    ]
    pod: dict[str, Any] = {
        "serviceAccountName": runtime.serviceAccountName,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": runtime.runAsUser,
            "fsGroup": runtime.runAsUser,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }
    if runtime.imagePullSecrets:
        pod["imagePullSecrets"] = [{"name": name} for name in runtime.imagePullSecrets]
    if spec.priorityClassName:
        pod["priorityClassName"] = spec.priorityClassName
    return pod


def _container(runtime: RuntimeSpec, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "image": runtime.image,
        "imagePullPolicy": runtime.imagePullPolicy,
        "env": environment(runtime),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "startupProbe": STARTUP_PROBE,
        "volumeMounts": [
            {"name": "medsd-tmp", "mountPath": "/tmp"},
            {"name": "medsd-home", "mountPath": "/tmp/home"},
            {"name": "medsd-shm", "mountPath": "/dev/shm"},
            *runtime.volumeMounts,
        ],
    }


def environment(runtime: RuntimeSpec) -> list[dict[str, Any]]:
    """S3 by reference: the keys stay in their Secret. What the platform team sets in the env wins."""
    s3 = runtime.s3
    values: dict[str, dict[str, Any]] = {
        "HOME": {"value": "/tmp/home"},
        "AWS_REGION": {"value": s3.region},
        "AWS_DEFAULT_REGION": {"value": s3.region},
    }
    if s3.endpoint:
        values["AWS_ENDPOINT_URL"] = {"value": s3.endpoint}
    if s3.secretName:
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            values[key] = {"valueFrom": {"secretKeyRef": {"name": s3.secretName, "key": key}}}
    _, at, digest = runtime.image.partition("@")
    if at:
        values["MEDSD_IMAGE_DIGEST"] = {"value": digest}
    values |= {name: {"value": value} for name, value in runtime.env.items()}
    return [{"name": name, **value} for name, value in values.items()]


def _resources(cpus: str, memory: str, extra: dict[str, str]) -> dict[str, Any]:
    # No CPU limit: Ray's start and data loading use what the node has to spare.
    return {"requests": {"cpu": cpus, "memory": memory, **extra}, "limits": {"memory": memory, **extra}}


def _placement(
    selector: dict[str, str], tolerations: list[dict[str, Any]], affinity: dict[str, Any]
) -> dict[str, Any]:
    given = {"nodeSelector": dict(selector), "tolerations": tolerations, "affinity": affinity}
    return {name: value for name, value in given.items() if value}


def whole_cpus(quantity: str) -> int:
    """CPU slots that Ray counts for a pod: `500m` is one."""
    return max(1, math.ceil(parse_quantity(quantity)))


def object_store(shared_memory: str) -> str:
    """Half of /dev/shm for Ray's object store, the rest for NCCL and data loaders. Bytes."""
    return str(max(LEAST_OBJECT_STORE, int(parse_quantity(shared_memory) / 2)))
