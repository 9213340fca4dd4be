"""Why something ended, in words: a pod, a head that was lost, a RayJob. Pure functions over Kubernetes' own
JSON.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from medsd_ray.operator.lifecycle.pods import Pod, condition, containers, is_going, is_head, is_over, last_end
from medsd_ray.times import moment

EXIT_CODE = re.compile(r"exit code (-?\d+)")


OWN_WORDS = re.compile(r"^medsd: .+$", re.MULTILINE)


LIBRARY = re.compile(
    r"^.*(?:NCCL (?:WARN|ERROR)|nccl\w*Error|DeepSpeed\w*Error|\[deepspeed\].*error|DistBackendError).*$",
    re.M | re.I,
)


BAD_INPUT, FAILED = 2, 1
"""Exit codes of `medsd`; all others are of signals and crashes."""


STOPPED = (0, 130, 137, 143)
"""Exit codes of a container that was asked to end."""

DELETED = "deleted"


LONGEST = 1500

Class = Literal["infrastructure", "application", "final"]


@dataclass(frozen=True)
class Failure:
    """`final` is never retried."""

    kind: Class
    reason: str
    message: str


def why_dead(pod: Pod) -> str:
    """Why a pod or its container ended, such as `OOMKilled (exit code 137)`; empty where nothing is known."""
    status = pod.get("status") or {}
    if status.get("reason"):  # Evicted, NodeLost, Terminated by a node's shutdown, …
        return f"{status['reason']}: {' '.join((status.get('message') or '').split())}"[:LONGEST].rstrip(": ")
    disruption = condition(pod, "DisruptionTarget") or {}
    if disruption.get("status") == "True":  # preempted, drained, its node lost
        return f"{disruption.get('reason', 'Disrupted')}: {disruption.get('message', '')}"[:LONGEST].rstrip(
            ": "
        )
    ends = [last_end(container) for container in containers(pod) if not _by_deletion(pod, container)]
    ends = [end for end in ends if end and not end.startswith("Completed (exit code 0)")]
    return ends[-1] if ends else (DELETED if is_going(pod) else "")


def died(pod: Pod) -> bool:
    """Whether it ended by itself or was evicted, rather than that it was deleted."""
    return why_dead(pod) not in ("", DELETED)


def _by_deletion(pod: Pod, container: dict[str, Any]) -> bool:
    """Whether a container ended since the pod's deletion was asked for, and so because of it."""
    meta = pod["metadata"]
    end = (container.get("state") or {}).get("terminated")
    if (
        not end
        or end.get("reason") == "OOMKilled"
        or not meta.get("deletionTimestamp")
        or not end.get("finishedAt")
    ):
        return False
    asked = moment(meta["deletionTimestamp"]) - timedelta(seconds=meta.get("deletionGracePeriodSeconds") or 0)
    after = (moment(end["finishedAt"]) - asked).total_seconds()
    return after > 0 or (after == 0 and end.get("exitCode") in STOPPED)  # Kubernetes' times are whole seconds


def head_loss(uid: str | None, pods: list[Pod], gone: list[Pod]) -> str | None:
    """How the head pod that took the job was lost; None while it is there. `gone`: pods that are not there
    any more, as they were last seen.
    """
    if uid is None:
        return None
    pod = next((pod for pod in pods if pod["metadata"]["uid"] == uid), None)
    if pod is not None:
        restarts = sum(
            c.get("restartCount", 0) for c in (pod.get("status") or {}).get("containerStatuses") or []
        )
        if not is_over(pod) and not is_going(pod) and not restarts and not _ended(pod):
            return None
        return f"head pod {pod['metadata']['name']} was lost: {why_dead(pod) or 'its container ended'}"
    last = next((pod for pod in gone if pod["metadata"]["uid"] == uid), None)
    if last is not None:
        return f"head pod {last['metadata']['name']} was lost: {why_dead(last) or DELETED}"
    other = next((pod for pod in pods if is_head(pod)), None)
    return "the head pod was lost: it is gone" + (
        f", and {other['metadata']['name']} is in its place" if other else ""
    )


def _ended(pod: Pod) -> bool:
    return any(
        (c.get("state") or {}).get("terminated")
        for c in (pod.get("status") or {}).get("containerStatuses") or []
    )


def losses(pods: list[Pod]) -> list[str]:
    """Pods that ended, one phrase each, such as `x-1-abcde-worker-fghij: OOMKilled (exit code 137)`."""
    return [f"{pod['metadata']['name']}: {reason}" for pod in pods if (reason := why_dead(pod))]


def has_token(rayjob: dict[str, Any]) -> bool:
    """Whether Ray's API will ask for a token. A KubeRay whose CRDs are older than 1.6 drops the field."""
    cluster = (rayjob.get("spec") or {}).get("rayClusterSpec") or {}
    return (cluster.get("authOptions") or {}).get("mode") == "token"


def ended(rayjob: dict[str, Any]) -> bool:
    """Whether the job, or KubeRay's work for it, is over."""
    status = rayjob.get("status") or {}
    return status.get("jobStatus") in ("SUCCEEDED", "FAILED", "STOPPED") or status.get(
        "jobDeploymentStatus"
    ) in (
        "Failed",
        "ValidationFailed",
    )


def succeeded(rayjob: dict[str, Any]) -> bool:
    return (rayjob.get("status") or {}).get("jobStatus") == "SUCCEEDED"


def exit_code(rayjob: dict[str, Any]) -> int | None:
    match = EXIT_CODE.search((rayjob.get("status") or {}).get("message") or "")
    return int(match[1]) if match else None


def failure_of(rayjob: dict[str, Any], pods: list[Pod], gone: list[Pod], error: str | None) -> Failure:
    """What a RayJob failed with. `error`: the driver's own last words, where it was asked in time."""
    status = rayjob.get("status") or {}
    reason, message = status.get("reason") or "", status.get("message") or ""
    if status.get("jobDeploymentStatus") == "ValidationFailed":
        return Failure("final", "RayJobRefused", f"KubeRay refuses the RayJob: {message}"[:LONGEST])
    code = exit_code(rayjob)
    own_line = error or last_words(message)
    if code == BAD_INPUT:
        return Failure("final", "BadInput", own_line or "bad input (exit code 2); the logs say more")
    parts = [
        own_line
        or (
            f"the run ended with exit code {code}"
            if code is not None
            else f"{reason or 'the job failed'}: {message}"
        )
    ]
    parts += [line for line in [library_error(message)] if line and line not in parts[0]]
    parts += losses([pod for pod in [*gone, *pods] if died(pod)])
    text = "; ".join(dict.fromkeys(part.strip() for part in parts))[:LONGEST]
    if code == FAILED:
        return Failure("application", "RunFailed", text)
    if code is not None:
        return Failure("infrastructure", "RunKilled", f"{text} (exit code {code})" if own_line else text)
    if status.get("jobStatus") == "STOPPED":
        return Failure("infrastructure", "RunStopped", "the Ray job was stopped from outside")
    if reason == "DeadlineExceeded":
        return Failure("final", reason, text)
    return Failure("infrastructure", reason if reason not in ("", "AppFailed") else "RayJobFailed", text)


def last_words(log: str) -> str | None:
    """The last `medsd: …` line of a log."""
    lines = OWN_WORDS.findall(log)
    return lines[-1].strip() if lines else None


def library_error(log: str) -> str | None:
    """The last line of a log in which NCCL or DeepSpeed says what failed."""
    lines = LIBRARY.findall(log)
    return " ".join(lines[-1].split()) if lines else None
