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
from medsd_ray.operator.controller import driver_client
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
from medsd_ray.operator.lifecycle.active_phases import wants_stop
from medsd_ray.operator.lifecycle.decide import attempt_not_created, decide
from medsd_ray.operator.lifecycle.decision import (
    Action,
    CreateAttempt,
    Decision,
    DeleteObject,
    DeleteRayJob,
    ObservedState,
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
from medsd_ray.operator.manifests.poll_token import poll_token
from medsd_ray.operator.manifests.rayjob import Plan, output_of
from medsd_ray.operator.subject import Subject, read_runtime, read_subject
from medsd_ray.spec import labels
from medsd_ray.spec.objects import API_VERSION
from medsd_ray.spec.runtime import RuntimeSpec
from medsd_ray.spec.status import Status

CONFLICT_S = 0.2
"""After someone else changed the object in between."""

LEFTOVER_S, REFUSED_S = 2.0, 30.0
"""Until an attempt is tried again that has its name taken by what is being deleted; that the API server
refused.
"""

log = logging.getLogger(__name__)


class AttemptNotCreated(Exception):
    """An attempt cannot be created yet; the message says why, for the object's status."""

    def __init__(self, message: str, retry_after: float = REFUSED_S):
        """`retry_after` is in seconds."""
        super().__init__(message)
        self.retry_after = retry_after


class Reconciler:
    """Reconciles one object at a time: reads what is there, lets `decide` decide, writes the status, acts.

    It may end or fail at any request. Whatever it had not yet done is decided again, and each action may be
    carried out again.
    """

    def __init__(self, api: Api, index: Index, session: aiohttp.ClientSession, poll_key: bytes | None = None):
        """`poll_key` is what the tokens of drivers follow from, where there is one."""
        self.api, self.index, self.session, self.poll_key = api, index, session, poll_key

    async def __call__(self, key: Key) -> float | None:
        """Reconciles an object once.

        Args:
            key: The object's kind, namespace and name.

        Returns:
            Seconds until it is due again; None where only news of it is a reason to look again.

        Raises:
            ApiError: The API server does not answer, or refuses something that cannot be said in the status.
            ValidationError: The object's status is not one that medsd wrote.
        """
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
        obj = await self.api.get(OBJECTS[key.kind], key.namespace, key.name)
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            return None  # what it owns goes with it
        subject = read_subject(obj)
        decision = decide(subject, await self._observe(key, subject), datetime.now(UTC))
        try:
            decision = await self._carry_out(subject, decision, obj["metadata"]["resourceVersion"])
        except ApiError as error:
            if error.code in (404, 409):  # changed or deleted in between
                return CONFLICT_S
            raise
        return decision.requeue_after

    async def _carry_out(self, subject: Subject, decision: Decision, version: str) -> Decision:
        """Writes the status, then carries out the actions. Returns what came of it, which is another decision
        where an attempt cannot be created.
        """
        version, refusal = await self._write(subject, decision.status, version), None
        try:
            for action in decision.actions:
                await self._execute(subject, action)
        except AttemptNotCreated as error:
            refusal = error
        finally:  # the status is on record: the next reconciliation would not tell of it
            await self._post_events(subject, decision)
        if refusal is None:
            return decision
        subject = dataclasses.replace(subject, status=decision.status)
        decision = attempt_not_created(subject, str(refusal), refusal.retry_after, datetime.now(UTC))
        await self._write(subject, decision.status, version)
        await self._post_events(subject, decision)
        return decision

    # --- what is there

    async def _observe(self, key: Key, subject: Subject) -> ObservedState:
        runtime, runtime_error = self._runtime(subject)
        attempt, index = subject.status.attempt, self.index
        # The index goes by names: what a deleted object of the same name has left is not this one's.
        rayjobs = {name: job for name, job in index.rayjobs(key).items() if owned_by(job, subject.uid)}
        pods = [pod for pod in index.pods(key) if made_for(pod, subject.uid)]
        deleted_pods = [pod for pod in index.deleted_pods(key) if made_for(pod, subject.uid)]
        rayjob = rayjobs.get(attempt.rayJob or "")
        if attempt.rayJob and rayjob is None and subject.status.phase not in FINISHED:
            rayjob = await self._live_rayjob(subject)
        if self._seems_gone(subject, rayjob, pods, deleted_pods):
            # In this order: KubeRay deletes the pods of a job that ended after it said so in the RayJob.
            pods = [slim_pod(pod) for pod in await self._list_pods(subject)]
            rayjob = await self._live_rayjob(subject)
        events = [event for event in index.events(key) if event["object"].startswith(f"{attempt.rayJob}-")]
        return ObservedState(
            runtime=runtime,
            runtime_error=runtime_error,
            rayjob=rayjob,
            older_rayjobs=tuple(job for job in rayjobs.values() if attempt_of(job) < attempt.number),
            pods=tuple(pods),
            deleted_pods=tuple(deleted_pods),
            events=tuple(events),
            driver=await self._ask_driver(subject, rayjob, pods, events),
            output_writer=self._output_writer(key, subject),
            poll_key=self.poll_key,
        )

    def _output_writer(self, key: Key, subject: Subject) -> str | None:
        if subject.spec is None or subject.status.attempt.number:
            return None
        writer = self.index.output_writer(key, output_of(subject.spec))
        if writer is None:
            return None
        # Who may read this object may not know what is in other namespaces.
        return str(writer) if writer.namespace == key.namespace else "an object of another namespace"

    def _runtime(self, subject: Subject) -> tuple[RuntimeSpec | None, str | None]:
        """The object's Runtime, or why it cannot be read; neither where it is not there."""
        obj = self.index.runtimes.get(subject.spec.runtime) if subject.spec else None
        try:
            return (read_runtime(obj) if obj else None), None
        except InputError as error:
            return None, str(error)

    def _seems_gone(
        self, subject: Subject, rayjob: dict | None, pods: list[dict], deleted_pods: list[dict]
    ) -> bool:
        """Whether something important is missing from the index: the head, or all that a new attempt waits
        for to be gone.
        """
        phase, uid = subject.status.phase, subject.status.attempt.headPodUID
        if phase in ("Running", "Suspending") and rayjob is not None and not ended(rayjob):
            return head_loss(uid, pods, deleted_pods) is not None
        return phase in ("Suspending", "Suspended", "Retrying") and rayjob is None and not pods

    async def _live_rayjob(self, subject: Subject) -> dict[str, Any] | None:
        name = subject.status.attempt.rayJob
        obj = await self.api.get(RAYJOBS, subject.namespace, name) if name else None
        return slim_rayjob(obj) if obj and owned_by(obj, subject.uid) else None

    async def _list_pods(self, subject: Subject) -> list[dict[str, Any]]:
        selector = labels.selector(labels.of_object(subject.kind, subject.name))
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
        token = (
            poll_token(self.poll_key, subject.uid, subject.status.attempt.number) if self.poll_key else None
        )
        return await driver_client.poll(self.session, address, events, wants_stop(subject), token)

    # --- what is written and done

    async def _write(self, subject: Subject, status: Status, version: str) -> str:
        """Writes what has changed, and returns the object's version after it. Raises ApiError 409 where
        somebody else has changed the object.

        Progress comes first: were the second write to fail with the phase on record, the next reconciliation
        would tell nothing of it.
        """
        before, after = _as_json(subject.status), _as_json(status)
        was, progress = before.pop("progress", None), after.pop("progress", None)
        if progress is not None and progress != was:
            obj = await self._apply(subject, {"progress": progress}, PROGRESS_MANAGER, version)
            version = obj["metadata"]["resourceVersion"]
        if after != before:
            obj = await self._apply(subject, after, MANAGER, version)
            version = obj["metadata"]["resourceVersion"]
        return version

    async def _apply(
        self, subject: Subject, status: dict[str, Any], manager: str, version: str
    ) -> dict[str, Any]:
        meta = {"name": subject.name, "namespace": subject.namespace, "resourceVersion": version}
        body = {"apiVersion": API_VERSION, "kind": subject.kind, "metadata": meta, "status": status}
        return await self.api.apply(OBJECTS[subject.kind], body, manager, "status")

    async def _execute(self, subject: Subject, action: Action) -> None:
        match action:
            case CreateAttempt():
                await self._create_attempt(subject, action.plan)
            case DeleteRayJob(name, uid):
                await self.api.delete(RAYJOBS, subject.namespace, name, uid, "Foreground")
            case ScaleWorkers(cluster, replicas, pods_to_delete):
                await self._scale(subject, cluster, replicas, pods_to_delete)
            case DeleteObject():
                await self.api.delete(
                    OBJECTS[subject.kind], subject.namespace, subject.name, subject.uid, "Background"
                )

    async def _create_attempt(self, subject: Subject, plan: Plan) -> None:
        """Creates the RayJob once: one that is there is left as it is, whatever the spec has become. Raises
        AttemptNotCreated, and ApiError for what may pass by itself.
        """
        try:
            rayjob = await self._create_or_get_rayjob(subject, plan)
        except ApiError as error:
            if error.code == 404:
                raise AttemptNotCreated(
                    "this cluster has no RayJobs (ray.io/v1); install KubeRay's operator, 1.6 or later"
                ) from error
            if error.code in (400, 403, 422):
                raise AttemptNotCreated(str(error)) from error
            raise
        self.index.see_rayjob(rayjob, deleted=False)

    async def _create_or_get_rayjob(self, subject: Subject, plan: Plan) -> dict[str, Any]:
        """The attempt's RayJob, created if need be, with its ConfigMap. Raises as `_create_attempt` does."""
        try:
            await self.api.create(CONFIGMAPS, plan.configmap)
        except ApiError as error:
            if error.code != 409:
                raise
            rayjob = await self._get_own(RAYJOBS, subject, plan.name)
            if rayjob is not None:
                return rayjob
            await self._get_own(CONFIGMAPS, subject, plan.name)
            await self.api.apply(CONFIGMAPS, plan.configmap, MANAGER)  # the spec may have changed since
        try:
            rayjob = await self.api.create(RAYJOBS, plan.rayjob)
        except ApiError as error:
            rayjob = await self._get_own(RAYJOBS, subject, plan.name) if error.code == 409 else None
            if rayjob is None:
                raise
            return rayjob
        ATTEMPTS.labels(subject.kind).inc()
        return rayjob

    async def _get_own(self, resource: Resource, subject: Subject, name: str) -> dict[str, Any] | None:
        """The object's own RayJob or ConfigMap of this name, or a ConfigMap that nobody owns any more; None
        where there is none. Raises AttemptNotCreated where the name is another's.
        """
        obj = await self.api.get(resource, subject.namespace, name)
        if obj is None or owned_by(obj, subject.uid):
            return obj
        kind = resource.plural.removesuffix("s")
        if owner_of(obj) != (subject.kind, subject.namespace, subject.name):
            raise AttemptNotCreated(
                f"{kind} {name} is there already and is not medsd's; delete it, or choose another name"
            )
        if resource is CONFIGMAPS and not obj["metadata"].get("ownerReferences"):
            return obj
        raise AttemptNotCreated(
            f"waiting for {kind} {name} to go: it belongs to a deleted {subject.kind} of the same name",
            LEFTOVER_S,
        )

    async def _scale(
        self, subject: Subject, cluster: str, replicas: int, pods_to_delete: tuple[str, ...]
    ) -> None:
        group = "/spec/workerGroupSpecs/0"
        patch = [
            {"op": "replace", "path": f"{group}/replicas", "value": replicas},
            {
                "op": "add",
                "path": f"{group}/scaleStrategy",
                "value": {"workersToDelete": list(pods_to_delete)},
            },
        ]
        try:
            await self.api.patch(RAYCLUSTERS, subject.namespace, cluster, patch, JSON_PATCH)
        except ApiError as error:  # the run goes on with the workers that it has
            log.warning(
                "RayCluster %s/%s: not scaled to %d workers: %s", subject.namespace, cluster, replicas, error
            )

    async def _post_events(self, subject: Subject, decision: Decision) -> None:
        """Posts the events, and counts a change of phase. An event that cannot be posted is lost, and nothing
        else with it.
        """
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


def _as_json(status: Status) -> dict[str, Any]:
    return status.model_dump(mode="json", exclude_none=True)
