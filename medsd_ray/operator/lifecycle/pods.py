"""What pods and a RayJob's worker group are: predicates over Kubernetes' own JSON. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medsd_ray.spec.labels import RAY_NODE_TYPE

Pod = dict[str, Any]
LONGEST = 1000


@dataclass(frozen=True)
class Group:
    """The worker group of a RayJob, as it was made."""

    pool: str
    least: int
    most: int
    gpus: int
    cluster: str | None  # name of the RayCluster, once there is one
    wanted: int  # pods that the RayCluster wants now


def group_of(rayjob: dict[str, Any]) -> Group:
    spec = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    status = rayjob.get("status") or {}
    wanted = (status.get("rayClusterStatus") or {}).get("desiredWorkerReplicas") or spec["replicas"]
    gpus = int((spec.get("rayStartParams") or {}).get("num-gpus", 0))
    cluster = status.get("rayClusterName") or None
    return Group(spec["groupName"], spec["minReplicas"], spec["maxReplicas"], gpus, cluster, wanted)


def is_head(pod: Pod) -> bool:
    return (pod["metadata"].get("labels") or {}).get(RAY_NODE_TYPE) == "head"


def is_going(obj: dict[str, Any]) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def is_placed(pod: Pod) -> bool:
    return bool((pod.get("spec") or {}).get("nodeName"))


def is_over(pod: Pod) -> bool:
    return phase(pod) in ("Failed", "Succeeded")


def is_ready(pod: Pod) -> bool:
    return (
        not is_going(pod)
        and phase(pod) == "Running"
        and (condition(pod, "Ready") or {}).get("status") == "True"
    )


def phase(pod: Pod) -> str:
    return (pod.get("status") or {}).get("phase", "Pending")


def condition(obj: dict[str, Any], kind: str) -> dict[str, Any] | None:
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c["type"] == kind), None)


def containers(pod: Pod) -> list[dict[str, Any]]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def live(pods: list[Pod]) -> list[Pod]:
    return [pod for pod in pods if not is_going(pod) and not is_over(pod)]


def last_end(container: dict[str, Any]) -> str:
    """How a container ended last, such as `OOMKilled (exit code 137)`; empty if it did not."""
    ended = (container.get("state") or {}).get("terminated") or (container.get("lastState") or {}).get(
        "terminated"
    )
    if not ended:
        return ""
    message = f": {' '.join(ended['message'].split())}" if ended.get("message") else ""
    return f"{ended.get('reason', 'Error')} (exit code {ended.get('exitCode')}){message}"[:LONGEST]


def workers_ready(pods: list[Pod]) -> int:
    return sum(is_ready(pod) for pod in pods if not is_head(pod))
