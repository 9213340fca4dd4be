"""What kopf calls. It only watches: its `on.event` handlers write nothing into objects, neither finalizers
nor annotations.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import kopf

from medsd_ray.operator.controller.index import Index, Key
from medsd_ray.operator.controller.kube_api import Api
from medsd_ray.operator.controller.metrics import QUEUE, count_objects
from medsd_ray.operator.controller.queue import Queue
from medsd_ray.operator.controller.reconciler import Reconciler
from medsd_ray.operator.controller.sweep import Sweep
from medsd_ray.operator.manifests.naming import SELECTOR
from medsd_ray.spec.objects import GROUP, PLURALS, VERSION

WORKERS = 32


GATHER_S = 0.3
"""Changes of pods come in bursts: one reconciliation for all within this time."""

HUNG_S = 120.0


START_AGAIN_S = 5.0
"""Until another try where the API server did not answer as the operator started."""


RUNTIMES, RAYJOBS, PODS, EVENTS = (
    (GROUP, VERSION, "runtimes"),
    ("ray.io", "v1", "rayjobs"),
    ("", "v1", "pods"),
    ("", "v1", "events"),
)


class Operator:
    """All that one operator process holds. `namespaces`: those to look at; none: all. `poll_key`: what the
    tokens of drivers follow from.
    """

    def __init__(self, namespaces: Sequence[str], poll_key: bytes | None = None):
        self.namespaces, self.poll_key = list(namespaces), poll_key
        self.index = Index()
        self.queue: Queue[Key] = Queue()
        self.sweep: Sweep | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._api = await Api.connect()
        self.sweep = Sweep(self._api, self.index, self.queue, self.namespaces or [None])
        await self.sweep.fill()
        self._session = aiohttp.ClientSession()
        reconciler = Reconciler(self._api, self.index, self._session, self.poll_key)
        self._tasks = [
            asyncio.create_task(self.queue.work(reconciler), name=f"worker {i}") for i in range(WORKERS)
        ]
        self._tasks.append(asyncio.create_task(self.sweep.run(), name="sweep"))
        QUEUE.set_function(self.queue.waiting)
        count_objects(self.index.phases)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()
        await self._api.close()

    def failure(self) -> str | None:
        """Why this process should be started anew; None while it is well."""
        for task in self._tasks:
            if task.done():
                return f"{task.get_name()} has ended"
        if self.queue.oldest() > HUNG_S and time.monotonic() - self.queue.last_progress > HUNG_S:
            return f"the queue stands still for {HUNG_S:.0f} s"
        if self.sweep and self.sweep.silent:
            return f"the watch is silent: it did not tell of changes to {self.sweep.silent[0]}"
        return None

    def add(self, key: Key | None, delay: float = GATHER_S) -> None:
        if key is not None:
            self.queue.add(key, delay)

    def see_object(self, event: Any) -> None:
        """News of a FineTune, Study or Evaluation."""
        deleted = _deleted(event)
        key = self.index.see_object(event["object"], deleted)
        if deleted:
            if key not in self.index.objects:  # else there is another of this name by now
                self.queue.forget(key)
        elif event["type"] is None or _spec_changed(event["object"]):  # not by its own writes to the status
            self.add(key, 0.0)


def registry(operator: Operator) -> kopf.OperatorRegistry:
    """kopf's handlers for one operator."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.startup(registry=handlers, backoff=START_AGAIN_S)
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure(settings)
        await operator.start()

    @kopf.on.cleanup(registry=handlers)
    async def stop(**_: Any) -> None:
        await operator.stop()

    @kopf.on.login(registry=handlers)
    async def login(**kwargs: Any) -> Any:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.probe(id="well", registry=handlers)
    async def well(**_: Any) -> bool:
        if failure := operator.failure():
            raise kopf.PermanentError(failure)
        return True

    @kopf.on.event(*RUNTIMES, registry=handlers)
    async def runtime(event: Any, **_: Any) -> None:
        for key in operator.index.see_runtime(event["object"], _deleted(event)):
            operator.add(key)

    async def finetune_study_or_evaluation(event: Any, **_: Any) -> None:
        operator.see_object(event)

    for plural in PLURALS.values():
        kopf.on.event(GROUP, VERSION, plural, id=plural, registry=handlers)(finetune_study_or_evaluation)

    @kopf.on.event(*RAYJOBS, registry=handlers)
    async def rayjob(event: Any, **_: Any) -> None:
        operator.add(operator.index.see_rayjob(event["object"], _deleted(event)))

    @kopf.on.event(*PODS, registry=handlers)
    async def pod(event: Any, **_: Any) -> None:
        operator.add(operator.index.see_pod(event["object"], _deleted(event)))

    @kopf.on.event(*EVENTS, registry=handlers)
    async def pod_event(event: Any, **_: Any) -> None:
        if not _deleted(event):
            operator.add(operator.index.see_event(event["object"]))

    return handlers


def configure(settings: kopf.OperatorSettings) -> None:
    settings.posting.enabled = False
    settings.peering.standalone = True
    # A watch that a proxy has cut off without a word is the classic end of operators.
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 300
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = 90
    settings.networking.request_timeout = 60
    settings.watching.label_selectors[RAYJOBS] = SELECTOR
    settings.watching.label_selectors[PODS] = SELECTOR
    settings.watching.field_selectors[EVENTS] = "involvedObject.kind=Pod"


def _deleted(event: Any) -> bool:
    return event["type"] == "DELETED"


def _spec_changed(obj: dict[str, Any]) -> bool:
    return (obj.get("status") or {}).get("observedGeneration") != obj["metadata"].get("generation")
