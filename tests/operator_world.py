"""A cluster in memory for the operator's state machine: it carries out what `decide` asks for, and plays
KubeRay and kubelet.
"""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

from medsd_ray.driver.protocol import DriverAnswer
from medsd_ray.operator.controller.index import slim_pod, slim_rayjob
from medsd_ray.operator.lifecycle.decide import decide
from medsd_ray.operator.lifecycle.decision import (
    CreateAttempt,
    Decision,
    DeleteObject,
    DeleteRayJob,
    ObservedState,
    ScaleWorkers,
)
from medsd_ray.operator.lifecycle.failures import ended
from medsd_ray.operator.lifecycle.pods import is_head
from medsd_ray.operator.manifests.naming import attempt_of
from medsd_ray.operator.subject import Subject, read_runtime, read_subject
from medsd_ray.times import stamp

RUN = {
    "data": {"train": "s3://bucket/latents"},
    "components": {"unet": {"method": "full"}},
    "training": {"max_steps": 20, "global_batch_size": 60},
    "resources": {"num_workers": 2},
    "output": "s3://bucket/runs/x",
}
RUNTIME = {
    "image": "registry/medsd@sha256:abc",
    "s3": {"endpoint": "http://s3:7070", "region": "eu", "secretName": "s3-credentials"},
    "pools": [
        {"name": "cpu", "cpus": "1", "memory": "2Gi", "sharedMemory": "256Mi", "maxPods": 4},
        {"name": "a100", "gpus": 2, "cpus": "8", "memory": "64Gi", "nodeSelector": {"gpu": "a100"}},
    ],
}


class Crash(Exception):
    """The operator's process ends here."""


def runtime(**changes: Any):
    return read_runtime({"metadata": {"name": "default"}, "spec": RUNTIME | changes})


def finetune(name: str = "x", run: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "lab", "uid": "uid-x", "generation": 1}
    return {"kind": "FineTune", "metadata": meta, "spec": {"run": RUN | (run or {}), **spec}}


def evaluation(name: str = "x", **spec: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "lab", "uid": "uid-e", "generation": 1}
    report = {"real": "s3://bucket/shards", "prompts": ["a chest x-ray"]}
    return {
        "kind": "Evaluation",
        "metadata": meta,
        "spec": {"model": "s3://bucket/runs/x", "report": report, "output": "s3://bucket/eval", **spec},
    }


def study(study: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """A grid of two combinations, which run at the same time with two workers each."""
    meta = {"name": "x", "namespace": "lab", "uid": "uid-s", "generation": 1}
    values = {
        "output": "s3://bucket/study",
        "shards": "s3://bucket/shards",
        "run": {
            "components": {"unet": "full"},
            "training": {"max_steps": 20, "global_batch_size": 4},
            "resources": {"num_workers": 2},
        },
        "space": {"components.text_encoder": {"choice": ["frozen", "full"]}},
        "search": {"max_concurrent": 2},
    }
    return {"kind": "Study", "metadata": meta, "spec": {"study": values | (study or {}), **spec}}


def subject(made: dict[str, Any]) -> Subject:
    return read_subject(made)


class World:
    """One object and what becomes of it. `crash_at`: the effect (a write or an action, counted from 0) that
    is lost as the operator's process ends; whoever calls `settle` next is its successor.
    """

    def __init__(self, made: dict[str, Any], crash_at: int | None = None):
        self.object: dict[str, Any] | None = copy.deepcopy(made)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.runtime = runtime()
        self.rayjobs: dict[str, dict[str, Any]] = {}
        self.pods: list[dict[str, Any]] = []
        self.gone: list[dict[str, Any]] = []
        self.driver: DriverAnswer | None = None
        self.holder: str | None = None
        self.made: list[str] = []
        self.events: list[str] = []
        self.scaled: list[ScaleWorkers] = []
        self.effects, self.crash_at = 0, crash_at

    # --- the operator

    @property
    def status(self):
        assert self.object is not None
        return read_subject(self.object).status

    def facts(self) -> ObservedState:
        name, number = self.status.attempt.rayJob, self.status.attempt.number
        older = [slim_rayjob(job) for job in self.rayjobs.values() if attempt_of(job) < number]
        current = self.rayjobs.get(name or "")
        pods, gone = tuple(map(slim_pod, self.pods)), tuple(map(slim_pod, self.gone))
        rayjob = slim_rayjob(current) if current else None
        return ObservedState(
            self.runtime, None, rayjob, tuple(older), pods, gone, (), self.driver, self.holder
        )

    def turn(self) -> Decision:
        """One reconciliation. Raises Crash."""
        assert self.object is not None
        decision = decide(read_subject(self.object), self.facts(), self.now)
        if decision.status != self.status:
            self._effect()
            self.object["status"] = decision.status.model_dump(mode="json", exclude_none=True)
        for action in decision.actions:
            self._effect()
            self._act(action)
        self.events += [event.reason for event in decision.events]
        return decision

    def settle(self) -> str:
        """Reconciles, kubelet and KubeRay deleting what is to be deleted, until nothing more is due at once.
        The phase.
        """
        for _ in range(50):
            if self.object is None:
                return "deleted"
            try:
                decision = self.turn()
            except Crash:
                continue
            deleted = self.sweep_deleted()
            if not deleted and decision.requeue_after != 0 and self.object is not None:
                again = decide(read_subject(self.object), self.facts(), self.now)
                if again.status == self.status and not again.actions and again.requeue_after != 0:
                    return self.status.phase
        raise AssertionError(f"never at rest: {self.status}")

    def _effect(self) -> None:
        self.effects += 1
        if self.effects - 1 == self.crash_at:
            raise Crash

    def _act(self, action: Any) -> None:
        match action:
            case CreateAttempt(plan):
                if plan.name not in self.rayjobs:  # as the API server: a name is there once
                    assert plan.name not in self.made, f"{plan.name} is made twice"
                    self.made.append(plan.name)
                    made = copy.deepcopy(plan.rayjob)
                    made["metadata"]["uid"] = f"uid-{plan.name}"
                    self.rayjobs[plan.name] = made
            case DeleteRayJob(name, _):
                if name in self.rayjobs:
                    self.rayjobs[name]["metadata"]["deletionTimestamp"] = stamp(self.now)
            case ScaleWorkers():
                self.scaled.append(action)
            case DeleteObject():
                self.object = None

    # --- the cluster

    def sweep_deleted(self) -> bool:
        """What a foreground deletion ends with: the pods are gone, then the RayJob is."""
        going = [name for name, job in self.rayjobs.items() if job["metadata"].get("deletionTimestamp")]
        for name in going:
            number = attempt_of(self.rayjobs.pop(name))
            self.pods = [pod for pod in self.pods if attempt_of(pod) != number]
        return bool(going)

    def wait(self, seconds: float) -> str:
        self.now += timedelta(seconds=seconds)
        return self.settle()

    @property
    def current(self) -> dict[str, Any]:
        return self.rayjobs[self.status.attempt.rayJob or ""]

    def say(self, **status: Any) -> str:
        """KubeRay's words on the current RayJob."""
        self.current.setdefault("status", {}).update(status)
        if ended(self.current):  # it frees the pods
            number = attempt_of(self.current)
            self.pods = [pod for pod in self.pods if attempt_of(pod) != number]
        return self.settle()

    def cluster(self) -> None:
        """KubeRay makes the pods, and no node has taken them yet."""
        job = self.current
        spec = job["spec"]["rayClusterSpec"]
        name = f"{job['metadata']['name']}-abcde"
        job.setdefault("status", {}).update({"jobDeploymentStatus": "Initializing", "rayClusterName": name})
        group = spec["workerGroupSpecs"][0]
        self._pod(f"{name}-head-1", "head", spec["headGroupSpec"])
        for i in range(group["replicas"]):
            self._pod(f"{name}-{group['groupName']}-worker-{i}", "worker", group)

    def _pod(self, name: str, kind: str, group: dict[str, Any]) -> None:
        template = group["template"]
        labels = {**template["metadata"]["labels"], "ray.io/node-type": kind}
        meta = {"name": name, "namespace": "lab", "uid": f"uid-{name}", "labels": labels}
        self.pods.append({"metadata": meta, "spec": {**template["spec"]}, "status": {"phase": "Pending"}})

    def ready(self, *names: str) -> None:
        """All pods, or those whose names contain one of these."""
        for pod in self.pods:
            if not names or any(name in pod["metadata"]["name"] for name in names):
                make_ready(pod)

    def start(self) -> str:
        """From a RayJob to a job that runs."""
        self.cluster()
        self.ready()
        return self.say(jobDeploymentStatus="Running", jobStatus="RUNNING", dashboardURL="x-head-svc:8265")

    def fail(self, code: int, log: str = "") -> str:
        message = (
            f"Job entrypoint command failed with exit code {code}, last available logs (truncated to 20,000 "
            f"chars):\n{log}"
        )
        return self.say(jobDeploymentStatus="Failed", jobStatus="FAILED", reason="AppFailed", message=message)

    def succeed(self) -> str:
        return self.say(jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")

    def head(self) -> dict[str, Any]:
        number = self.status.attempt.number
        return next(pod for pod in self.pods if is_head(pod) and attempt_of(pod) == number)

    def lose(self, pod: dict[str, Any], **status: Any) -> None:
        """A pod is gone; `status` is what its last words were."""
        pod["status"].update(status)
        self.pods.remove(pod)
        self.gone.append(pod)

    def suspend(self, value: bool = True) -> str:
        assert self.object is not None
        self.object["spec"]["suspend"] = value
        self.object["metadata"]["generation"] += 1
        return self.settle()

    def condition(self, kind: str):
        return next((c for c in self.status.conditions if c.type == kind), None)


def make_ready(pod: dict[str, Any]) -> None:
    pod["spec"]["nodeName"] = "node-1"
    container = {"name": pod["spec"]["containers"][0]["name"], "restartCount": 0, "state": {"running": {}}}
    conditions = [{"type": kind, "status": "True"} for kind in ("PodScheduled", "Ready")]
    pod["status"] = {
        "phase": "Running",
        "podIP": "10.0.0.7",
        "conditions": conditions,
        "containerStatuses": [container],
    }


def unschedulable(
    pod: dict[str, Any], why: str = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
) -> None:
    pod["spec"].pop("nodeName", None)
    refused = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
    pod["status"] = {"phase": "Pending", "conditions": [refused]}


def terminated(reason: str, code: int, at: str = "2026-01-01T00:00:00Z", **more: Any) -> list[dict[str, Any]]:
    """containerStatuses of a pod whose container ended."""
    return [
        {
            "name": "ray",
            "restartCount": 0,
            "state": {"terminated": {"reason": reason, "exitCode": code, "finishedAt": at}},
            **more,
        }
    ]
