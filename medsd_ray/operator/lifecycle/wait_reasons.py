"""What pods and a RayJob say about waiting: for what, in words. Pure functions over Kubernetes' own JSON."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from medsd_ray.operator.lifecycle.pods import (
    LONGEST,
    Group,
    Pod,
    condition,
    containers,
    group_of,
    is_head,
    is_placed,
    is_ready,
    last_end,
    live,
    phase,
    workers_ready,
)

IMAGE = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "RegistryUnavailable",
    "ImageInspectError",
}


CONFIG = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError"}


STUCK_EVENTS = {"FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedMapVolume"}


NO_SECRET = re.compile(r'secret "([^"]+)" not found')


NO_KEY = re.compile(r"couldn't find key (\S+) in Secret (?:[^\s/]+/)?([^\s/]+)")


@dataclass(frozen=True)
class WaitReason:
    """`reason` in CamelCase, `message` in words; both end in the Scheduled condition."""

    reason: str
    message: str


def wait_reason(rayjob: dict[str, Any], pods: list[Pod], events: list[dict[str, Any]]) -> WaitReason:
    """What an attempt that does not run yet waits for; `pods` and `events` are the attempt's own."""
    group, alive = group_of(rayjob), live(pods)
    return (
        container_trouble(alive)
        or mount_trouble(alive, events)
        or unplaced(group, alive)
        or refused_pods(rayjob)
        or _coming(rayjob, group, alive)
    )


def container_trouble(pods: list[Pod]) -> WaitReason | None:
    """An image that cannot be pulled, a secret or key that is missing, a container that keeps ending."""
    for pod in pods:
        for container in containers(pod):
            state = (container.get("state") or {}).get("waiting") or {}
            reason, message = state.get("reason", ""), state.get("message", "")
            if reason in IMAGE:
                return WaitReason("ImagePullFailed", f"image pull failed: {message or reason}"[:LONGEST])
            if reason in CONFIG:
                return WaitReason("ContainerNotMade", _config_words(pod, reason, message)[:LONGEST])
            if reason == "CrashLoopBackOff":
                name = pod["metadata"]["name"]
                return WaitReason(
                    "ContainerEnds", f"pod {name}: its container ends again and again: {last_end(container)}"
                )
    return None


def _config_words(pod: Pod, reason: str, message: str) -> str:
    if match := NO_KEY.search(message):
        return f"secret {match[2]} has no key {match[1]}"
    if match := NO_SECRET.search(message):
        return f"there is no secret {match[1]} in namespace {pod['metadata']['namespace']}"
    return f"pod {pod['metadata']['name']}: {reason}: {message}"


def mount_trouble(pods: list[Pod], events: list[dict[str, Any]]) -> WaitReason | None:
    """A volume or sandbox that fails, for a pod that is placed and has no container yet."""
    stuck = {pod["metadata"]["name"] for pod in pods if is_placed(pod) and phase(pod) == "Pending"}
    for event in reversed(events):
        if event["reason"] in STUCK_EVENTS and event["object"] in stuck:
            return WaitReason(event["reason"], f"pod {event['object']}: {event['message']}"[:LONGEST])
    return None


def unplaced(group: Group, pods: list[Pod]) -> WaitReason | None:
    """Pods for which the scheduler finds no node, and why, in its own words."""
    for pod in sorted(pods, key=lambda pod: not is_head(pod)):
        refused = condition(pod, "PodScheduled") or {}
        if is_placed(pod) or refused.get("status") != "False":
            continue
        why = refused.get("message") or refused.get("reason", "")
        if is_head(pod):
            return WaitReason("Unschedulable", f"waiting for a node for the head pod ({why})"[:LONGEST])
        placed = sum(is_placed(p) for p in pods if not is_head(p))
        missing = group.wanted - placed
        shortage = _count(missing * group.gpus, "GPU") if group.gpus else _count(missing, "pod")
        message = (
            f"waiting for {shortage} in pool {group.pool}: {placed} of {group.wanted} workers placed ({why})"
        )
        return WaitReason("Unschedulable", message[:LONGEST])
    return None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def refused_pods(rayjob: dict[str, Any]) -> WaitReason | None:
    """Pods that the API server refuses to KubeRay: a quota, an admission policy."""
    cluster = (rayjob.get("status") or {}).get("rayClusterStatus") or {}
    failure = condition({"status": cluster}, "ReplicaFailure") or {}
    if failure.get("status") != "True":
        return None
    return WaitReason(
        "PodsNotMade",
        f"KubeRay cannot make the pods: {' '.join(failure.get('message', '').split())}"[:LONGEST],
    )


def _coming(rayjob: dict[str, Any], group: Group, pods: list[Pod]) -> WaitReason:
    status = rayjob.get("status") or {}
    if not status.get("jobDeploymentStatus"):
        return WaitReason("WaitingForKubeRay", "waiting for KubeRay to take the RayJob")
    if status["jobDeploymentStatus"] == "Running":
        return WaitReason("JobSubmitted", "all pods are ready; waiting for Ray to start the job")
    heads = [pod for pod in pods if is_head(pod)]
    if not heads:
        return WaitReason("WaitingForPods", "waiting for KubeRay to make the pods")
    head = "ready" if is_ready(heads[0]) else "not ready yet"
    ready = sum(is_ready(pod) for pod in pods if not is_head(pod))
    return WaitReason(
        "PodsStarting", f"pods are starting: head {head}, {ready} of {group.wanted} workers ready"
    )


def workers_to_give_up(group: Group, pods: list[Pod]) -> list[str] | None:
    """The worker pods to do without, so that an elastic run starts with what there is: those that no node
    takes, when enough others and the head are ready. None: nothing to do.
    """
    alive = [pod for pod in live(pods) if not is_head(pod)]
    refused = [
        pod
        for pod in alive
        if not is_placed(pod) and (condition(pod, "PodScheduled") or {}).get("status") == "False"
    ]
    ready = workers_ready(pods)
    head = any(is_head(pod) and is_ready(pod) for pod in pods)
    if not head or not refused or ready < group.least or ready + len(refused) < len(alive):
        return None
    return sorted(pod["metadata"]["name"] for pod in refused)
