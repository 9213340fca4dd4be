"""One reconciliation of one object: read what is there, decide, write the status, act.

The watches' index may lag behind. So the object itself is read anew each time, and that something is missing
(a RayJob, the head pod, the last of the pods) is believed only when the API server says so.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from datetime import UTC, datetime
from typing import Any

import aiohttp

from medsd_ray.errors import InputError
from medsd_ray.operator.controller import driver_client as driver
from medsd_ray.operator.controller.index import FINISHED, Index, Key, slim_pod, slim_rayjob
from medsd_ray.operator.controller.kube_api import (
    CONFIGMAPS,
    JSON_PATCH,
    OBJECTS,
    PODS,
    RAYCLUSTERS,
    RAYJOBS,
    Api,
    ApiError,
    Resource,
)
from medsd_ray.operator.controller.metrics import ATTEMPTS, ERRORS, PHASES, RECONCILES, SECONDS
from medsd_ray.operator.lifecycle.attempt import wants_stop
from medsd_ray.operator.lifecycle.decide import decide, not_made
from medsd_ray.operator.lifecycle.decision import (
    Action,
    Decision,
    DeleteRayJob,
    DeleteSelf,
    Facts,
    MakeAttempt,
    ScaleWorkers,
)
from medsd_ray.operator.lifecycle.failures import ended, head_loss
from medsd_ray.operator.lifecycle.pods import is_over
from medsd_ray.operator.manifests.naming import (
    MANAGER,
    PROGRESS_MANAGER,
    attempt_of,
    made_for,
    owned_by,
    owner_of,
)
from medsd_ray.operator.manifests.rayjob import Plan, output_of
from medsd_ray.operator.subject import Subject, read_runtime, read_subject
from medsd_ray.spec.objects import API_VERSION, Status

CONFLICT_S = 0.2
"""After someone else changed the object in between."""

LEFTOVER_S, REFUSED_S = 2.0, 30.0
"""Until an attempt is tried again that has its name taken by what is being deleted; that the API server
refused.
"""

log = logging.getLogger(__name__)


class NotMade(Exception):
    """An attempt cannot be made yet; the words say why. `wait`: seconds until it is tried again."""

    def __init__(self, words: str, wait: float = REFUSED_S):
        super().__init__(words)
        self.wait = wait


class Reconciler:
    def __init__(self, api: Api, index: Index, session: aiohttp.ClientSession):
        self.api, self.index, self.session = api, index, session

    async def __call__(self, key: Key) -> float | None:
        """Seconds until it is due again. Raises ApiError, and whatever goes wrong."""
        started = time.monotonic()
        try:
            return await self._reconcile(key)
        except Exception:
            ERRORS.labels(key.kind).inc()
            raise
        finally:
            RECONCILES.labels(key.kind).inc()
            SECONDS.labels(key.kind).observe(time.monotonic() - started)

    async def _reconcile(self, key: Key) -> float | None:
        made = await self.api.get(OBJECTS[key.kind], key.namespace, key.name)
        if made is None or made["metadata"].get("deletionTimestamp"):
            return None  # what it owns goes with it
        subject = read_subject(made)
        decision = decide(subject, await self._gather(key, subject), datetime.now(UTC))
        try:
            decision = await self._carry_out(subject, decision, made["metadata"]["resourceVersion"])
        except ApiError as error:
            if error.code in (404, 409):  # changed or deleted in between
                return CONFLICT_S
            raise
        return decision.again

    async def _carry_out(self, subject: Subject, decision: Decision, version: str) -> Decision:
        """The status first, then the actions. Returns what came of it: where an attempt cannot be made, the
        words why.
        """
        version, refusal = await self._write(subject, decision.status, version), None
        try:
            for action in decision.actions:
                await self._act(subject, action)
        except NotMade as error:
            refusal = error
        finally:  # the status is on record: the next turn would not tell of it
            await self._tell(subject, decision)
        if refusal is None:
            return decision
        subject = dataclasses.replace(subject, status=decision.status)
        decision = not_made(subject, str(refusal), refusal.wait, datetime.now(UTC))
        await self._write(subject, decision.status, version)
        await self._tell(subject, decision)
        return decision

    # --- what is there

    async def _gather(self, key: Key, subject: Subject) -> Facts:
        runtime, runtime_refusal = self._runtime(subject)
        attempt, index = subject.status.attempt, self.index
        # The index goes by names: what a deleted object of the same name has left is not this one's.
        rayjobs = {name: job for name, job in index.rayjobs(key).items() if owned_by(job, subject.uid)}
        pods = [pod for pod in index.pods(key) if made_for(pod, subject.uid)]
        gone = [pod for pod in index.gone(key) if made_for(pod, subject.uid)]
        rayjob = rayjobs.get(attempt.rayJob or "")
        if attempt.rayJob and rayjob is None and subject.status.phase not in FINISHED:
            rayjob = await self._live_rayjob(subject)
        if self._seems_gone(subject, rayjob, pods, gone):
            # In this order: KubeRay deletes the pods of a job that ended after it said so in the RayJob.
            pods = [slim_pod(pod) for pod in await self._list_pods(subject)]
            rayjob = await self._live_rayjob(subject)
        events = [event for event in index.events(key) if event["object"].startswith(f"{attempt.rayJob}-")]
        return Facts(
            runtime=runtime,
            runtime_refusal=runtime_refusal,
            rayjob=rayjob,
            older=tuple(job for job in rayjobs.values() if attempt_of(job) < attempt.number),
            pods=tuple(pods),
            gone=tuple(gone),
            events=tuple(events),
            driver=await self._ask_driver(subject, rayjob, pods, events),
            holder=self._holder(key, subject),
        )

    def _holder(self, key: Key, subject: Subject) -> str | None:
        if subject.spec is None or subject.status.attempt.number:
            return None
        holder = self.index.holder(key, output_of(subject.spec))
        return str(holder) if holder else None

    def _runtime(self, subject: Subject):
        made = self.index.runtimes.get(subject.spec.runtime) if subject.spec else None
        try:
            return (read_runtime(made) if made else None), None
        except InputError as error:
            return None, str(error)

    def _seems_gone(self, subject: Subject, rayjob: dict | None, pods: list[dict], gone: list[dict]) -> bool:
        """Whether something important is missing from the index: the head, or all that a new attempt waits
        for to be gone.
        """
        phase, uid = subject.status.phase, subject.status.attempt.headPodUID
        if phase in ("Running", "Suspending") and rayjob is not None and not ended(rayjob):
            return head_loss(uid, pods, gone) is not None
        return phase in ("Suspending", "Suspended", "Retrying") and rayjob is None and not pods

    async def _live_rayjob(self, subject: Subject) -> dict[str, Any] | None:
        name = subject.status.attempt.rayJob
        made = await self.api.get(RAYJOBS, subject.namespace, name) if name else None
        return slim_rayjob(made) if made and owned_by(made, subject.uid) else None

    async def _list_pods(self, subject: Subject) -> list[dict[str, Any]]:
        selector = (
            f"app.kubernetes.io/component={subject.kind.lower()},app.kubernetes.io/instance={subject.name}"
        )
        pods = await self.api.list(PODS, subject.namespace, selector, whole=True)
        return [pod for pod in pods if made_for(pod, subject.uid)]

    async def _ask_driver(self, subject: Subject, rayjob: dict | None, pods: list[dict], events: list[dict]):
        uid = subject.status.attempt.headPodUID
        head = next((pod for pod in pods if pod["metadata"]["uid"] == uid and not is_over(pod)), None)
        address = head["status"].get("podIP") if head else None
        if (
            subject.status.phase not in ("Running", "Suspending")
            or rayjob is None
            or ended(rayjob)
            or not address
        ):
            return None
        return await driver.poll(self.session, address, events, wants_stop(subject))

    # --- what is written and done

    async def _write(self, subject: Subject, status: Status, version: str) -> str:
        """Only what has changed. Returns the object's version after it. Raises ApiError 409 where another has
        changed it.

        Progress comes first: of a phase on record the next turn would tell nothing, were the second write to
        fail.
        """
        before, after = _plain(subject.status), _plain(status)
        was, progress = before.pop("progress", None), after.pop("progress", None)
        if progress is not None and progress != was:
            made = await self._apply(subject, {"progress": progress}, PROGRESS_MANAGER, version)
            version = made["metadata"]["resourceVersion"]
        if after != before:
            made = await self._apply(subject, after, MANAGER, version)
            version = made["metadata"]["resourceVersion"]
        return version

    async def _apply(
        self, subject: Subject, status: dict[str, Any], manager: str, version: str
    ) -> dict[str, Any]:
        meta = {"name": subject.name, "namespace": subject.namespace, "resourceVersion": version}
        body = {"apiVersion": API_VERSION, "kind": subject.kind, "metadata": meta, "status": status}
        return await self.api.apply(OBJECTS[subject.kind], body, manager, "status")

    async def _act(self, subject: Subject, action: Action) -> None:
        match action:
            case MakeAttempt():
                await self._make(subject, action)
            case DeleteRayJob(name, uid):
                await self.api.delete(RAYJOBS, subject.namespace, name, uid, "Foreground")
            case ScaleWorkers(cluster, replicas, without):
                await self._scale(subject, cluster, replicas, list(without))
            case DeleteSelf():
                await self.api.delete(
                    OBJECTS[subject.kind], subject.namespace, subject.name, subject.uid, "Background"
                )

    async def _make(self, subject: Subject, action: MakeAttempt) -> None:
        """Makes the RayJob once: one that is there is left as it is, whatever the spec has become."""
        try:
            rayjob = await self._made(subject, action.plan)
        except ApiError as error:
            if error.code == 404:
                raise NotMade(
                    "this cluster has no RayJobs (ray.io/v1); install KubeRay's operator, 1.6 or later"
                ) from error
            if error.code in (400, 403, 422):
                raise NotMade(str(error)) from error
            raise
        self.index.see_rayjob(rayjob, deleted=False)

    async def _made(self, subject: Subject, plan: Plan) -> dict[str, Any]:
        try:
            await self.api.create(CONFIGMAPS, plan.configmap)
        except ApiError as error:
            if error.code != 409:
                raise
            rayjob = await self._own(RAYJOBS, subject, plan.name)
            if rayjob is not None:
                return rayjob
            await self._own(CONFIGMAPS, subject, plan.name)
            await self.api.apply(CONFIGMAPS, plan.configmap, MANAGER)  # the spec may have changed since
        try:
            rayjob = await self.api.create(RAYJOBS, plan.rayjob)
        except ApiError as error:
            rayjob = await self._own(RAYJOBS, subject, plan.name) if error.code == 409 else None
            if rayjob is None:
                raise
            return rayjob
        ATTEMPTS.labels(subject.kind).inc()
        return rayjob

    async def _own(self, resource: Resource, subject: Subject, name: str) -> dict[str, Any] | None:
        """The object's own of this name, or a ConfigMap that nobody owns any more. Raises NotMade where it is
        another's.
        """
        made = await self.api.get(resource, subject.namespace, name)
        if made is None or owned_by(made, subject.uid):
            return made
        what = resource.plural.removesuffix("s")
        if owner_of(made) != (subject.kind, subject.namespace, subject.name):
            raise NotMade(
                f"{what} {name} is there already and is not medsd's; delete it, or choose another name"
            )
        if resource is CONFIGMAPS and not made["metadata"].get("ownerReferences"):
            return made
        raise NotMade(
            f"waiting for {what} {name} to go: it belongs to a deleted {subject.kind} of the same name",
            LEFTOVER_S,
        )

    async def _scale(self, subject: Subject, cluster: str, replicas: int, without: list[str]) -> None:
        group = "/spec/workerGroupSpecs/0"
        patch = [
            {"op": "replace", "path": f"{group}/replicas", "value": replicas},
            {"op": "add", "path": f"{group}/scaleStrategy", "value": {"workersToDelete": without}},
        ]
        try:
            await self.api.patch(RAYCLUSTERS, subject.namespace, cluster, patch, JSON_PATCH)
        except ApiError as error:  # the run goes on with the workers that it has
            log.warning(
                "RayCluster %s/%s: not scaled to %d workers: %s", subject.namespace, cluster, replicas, error
            )

    async def _tell(self, subject: Subject, decision: Decision) -> None:
        """Events in words. One that cannot be posted is lost, and nothing else with it."""
        if decision.status.phase != subject.status.phase:
            reason = decision.events[-1].reason if decision.events else ""
            PHASES.labels(subject.kind, decision.status.phase, reason).inc()
        for event in decision.events:
            log.info(
                "%s %s/%s: %s: %s", subject.kind, subject.namespace, subject.name, event.reason, event.message
            )
            try:
                await self.api.post_event(
                    subject.kind, subject.namespace, subject.name, subject.uid, event, datetime.now(UTC)
                )
            except ApiError as error:
                log.warning(
                    "%s %s/%s: event not posted: %s", subject.kind, subject.namespace, subject.name, error
                )


def _plain(status: Status) -> dict[str, Any]:
    return status.model_dump(mode="json", exclude_none=True)
