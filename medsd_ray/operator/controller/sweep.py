"""Every two minutes, what is there is compared with what the watches told: leftovers go, and a watch that is
silent shows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from medsd_ray.operator.controller.index import Index, Key
from medsd_ray.operator.controller.kube_api import OBJECTS, PODS, RAYJOBS, RUNTIMES, Api, ApiError, Resource
from medsd_ray.operator.controller.metrics import SWEPT
from medsd_ray.operator.controller.queue import Queue
from medsd_ray.operator.manifests.naming import SELECTOR, owner_of

EVERY_S = 120.0


log = logging.getLogger(__name__)


class Sweep:
    """`namespaces`: those to look at, or [None] for all."""

    def __init__(self, api: Api, index: Index, queue: Queue[Key], namespaces: Sequence[str | None]):
        self.api, self.index, self.queue, self.namespaces = api, index, queue, namespaces
        self.silent: list[Key] = []
        """Objects whose changes did not come through the watch from one sweep to the next."""
        self._behind: dict[Key, str | None] = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.once()
            except Exception:  # the API server may answer again at the next one
                log.exception("sweep failed; again in %.0f s", EVERY_S)

    async def fill(self) -> None:
        """Puts into the index what is there before the first reconciliation.

        The watches tell of it one by one. A reconciliation that comes in between would take the Runtime, the
        pods or another writer to its output for missing.
        """
        for runtime in await self.api.list(RUNTIMES, None, whole=True):
            self.index.see_runtime(runtime, deleted=False)
        for kind, resource in OBJECTS.items():
            for obj in await self._list(resource, whole=True):
                self.index.see_object(obj | {"kind": kind}, deleted=False)
        for rayjob in await self._list(RAYJOBS, SELECTOR, whole=True):
            self.index.see_rayjob(rayjob, deleted=False)
        for pod in await self._list(PODS, SELECTOR, whole=True):
            self.index.see_pod(pod, deleted=False)

    async def once(self) -> None:
        at = time.monotonic()
        # RayJobs before their owners: whatever owner a RayJob of the list had then is in the later list, or
        # gone.
        rayjobs, pods = await self._list(RAYJOBS, SELECTOR), await self._list(PODS, SELECTOR)
        objects: dict[Key, dict[str, Any]] = {}
        for kind, resource in OBJECTS.items():
            for obj in await self._list(resource):
                objects[Key(kind, obj["metadata"]["namespace"], obj["metadata"]["name"])] = obj["metadata"]
        for key in self.index.drop_missing_rayjobs(_uids(rayjobs), at) | self.index.drop_missing_pods(
            _uids(pods), at
        ):
            self.queue.add(key)
        self.index.drop_missing_objects({meta["uid"] for meta in objects.values()}, at)
        self._compare(objects)
        for rayjob in rayjobs:
            await self._delete_if_left_over(rayjob, objects)

    def _compare(self, objects: dict[Key, dict[str, Any]]) -> None:
        """The index may be a little behind; one that stays where it was for a whole sweep has no watch."""
        behind: dict[Key, str | None] = {}
        for key, meta in objects.items():
            summary = self.index.objects.get(key)
            version = summary.resource_version if summary else None
            if version != meta["resourceVersion"]:
                behind[key] = version
                self.queue.add(key)
        self.silent = [
            key for key, version in behind.items() if key in self._behind and self._behind[key] == version
        ]
        self._behind = behind

    async def _delete_if_left_over(self, rayjob: dict[str, Any], objects: dict[Key, dict[str, Any]]) -> None:
        meta, owner = rayjob["metadata"], owner_of(rayjob)
        if owner is None or meta.get("deletionTimestamp"):
            return
        uids = {reference["uid"] for reference in meta.get("ownerReferences") or []}
        listed = objects.get(Key(*owner))
        if listed is not None and listed["uid"] in uids:
            return
        kind, namespace, name = owner
        live = await self.api.get(OBJECTS[kind], namespace, name)
        if live is None or live["metadata"]["uid"] not in uids:
            log.warning("RayJob %s/%s: its %s is gone; deleted", namespace, meta["name"], kind)
            await self.api.delete(RAYJOBS, namespace, meta["name"], meta["uid"], "Foreground")
            SWEPT.inc()

    async def _list(
        self, resource: Resource, selector: str = "", whole: bool = False
    ) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        for namespace in self.namespaces:
            try:
                items += await self.api.list(resource, namespace, selector, whole)
            except ApiError as error:
                if error.code != 404:  # KubeRay is not installed yet
                    raise
        return items


def _uids(objects: list[dict[str, Any]]) -> set[str]:
    return {obj["metadata"]["uid"] for obj in objects}
