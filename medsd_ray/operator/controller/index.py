"""What the watches have told: the parts of RayJobs, pods and events that the state machine reads. In memory
alone.

It may lag behind the API server, so nothing is decided from what is missing here: see reconciler.py.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from medsd_ray.addresses import canonical
from medsd_ray.operator.manifests.naming import owner_of

MOST_EVENTS = 200
"""Of one object; the newest."""

MOST_DELETED_PODS = 16


FINISHED = ("Succeeded", "Failed")


Object = dict[str, Any]


class Key(NamedTuple):
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Seen(NamedTuple):
    """An object as last seen, and when (seconds of the monotonic clock)."""

    obj: Object
    at: float


class Summary(NamedTuple):
    """What is kept of a FineTune, Study or Evaluation, which is read anew for each reconciliation."""

    seen_at: float
    """Seconds of the monotonic clock."""
    uid: str
    resource_version: str
    runtime: str | None
    phase: str
    output: str
    begun: bool
    """Whether it has had an attempt."""
    order: tuple[str, str]
    """Of two objects, the one that was there first has the lower one."""


class Owned(NamedTuple):
    """What was obj for an object, by name; its pods that are gone, and the events on its pods."""

    rayjobs: dict[str, Seen]
    pods: dict[str, Seen]
    deleted_pods: deque[Object]
    events: deque[dict[str, Any]]


class Index:
    """What is known of each object: its RayJobs, its pods and their events; and all Runtimes. It goes by the
    objects' names, not by their uids.
    """

    def __init__(self) -> None:
        self.runtimes: dict[str, Object] = {}
        self.objects: dict[Key, Summary] = {}
        self._owned: defaultdict[Key, Owned] = defaultdict(
            lambda: Owned({}, {}, deque(maxlen=MOST_DELETED_PODS), deque(maxlen=MOST_EVENTS))
        )
        self._pod_owner: dict[tuple[str, str], Key] = {}
        self._early: deque[Object] = deque(maxlen=1000)  # events of pods that no watch has told of yet

    # --- what the watches bring

    def see_runtime(self, obj: Object, deleted: bool) -> list[Key]:
        """The objects that may wait for a runtime of this name."""
        name = obj["metadata"]["name"]
        if deleted:
            self.runtimes.pop(name, None)
        else:
            self.runtimes[name] = obj
        return [
            key
            for key, summary in self.objects.items()
            if summary.runtime == name and summary.phase not in FINISHED
        ]

    def see_object(self, obj: Object, deleted: bool) -> Key:
        key = Key(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])
        if deleted:
            # News of two objects of one name may come in any order: the deleted one may be another.
            if key in self.objects and self.objects[key].uid == obj["metadata"]["uid"]:
                del self.objects[key]
            self._tidy(key)
        else:
            status = obj.get("status") or {}
            self.objects[key] = Summary(
                seen_at=time.monotonic(),
                uid=obj["metadata"]["uid"],
                resource_version=obj["metadata"]["resourceVersion"],
                runtime=(obj.get("spec") or {}).get("runtime"),
                phase=status.get("phase", "Pending"),
                output=_output(obj),
                begun=bool((status.get("attempt") or {}).get("number")),
                order=(obj["metadata"].get("creationTimestamp", ""), obj["metadata"]["uid"]),
            )
        return key

    def see_rayjob(self, obj: Object, deleted: bool) -> Key | None:
        key = _key(obj)
        if key is None:
            return None
        jobs, name = self._owned[key].rayjobs, obj["metadata"]["name"]
        if deleted:
            if name in jobs and jobs[name].obj["metadata"]["uid"] == obj["metadata"]["uid"]:
                del jobs[name]
            self._tidy(key)
        else:
            jobs[name] = Seen(slim_rayjob(obj), time.monotonic())
        return key

    def see_pod(self, obj: Object, deleted: bool) -> Key | None:
        key = _key(obj)
        if key is None:
            return None
        meta, owned = obj["metadata"], self._owned[key]
        if deleted:
            owned.pods.pop(meta["name"], None)
            owned.deleted_pods.append(slim_pod(obj))
            self._pod_owner.pop((meta["namespace"], meta["name"]), None)
            self._tidy(key)
        else:
            new = meta["name"] not in owned.pods
            owned.pods[meta["name"]] = Seen(slim_pod(obj), time.monotonic())
            self._pod_owner[meta["namespace"], meta["name"]] = key
            if new:
                self._take_early(meta["namespace"], meta["name"])
        return key

    def see_event(self, obj: Object) -> Key | None:
        """Of a pod. One that comes before its pod waits for it."""
        about = obj.get("involvedObject") or {}
        key = self._pod_owner.get((about.get("namespace", ""), about.get("name", "")))
        if key is None:
            self._early.append(obj)
            return None
        event = slim_event(obj)
        events = self._owned[key].events
        if event not in events:
            events.append(event)
        return key

    def _take_early(self, namespace: str, name: str) -> None:
        mine = [
            e
            for e in self._early
            if (e["involvedObject"].get("namespace"), e["involvedObject"].get("name")) == (namespace, name)
        ]
        for event in mine:
            self._early.remove(event)
            self.see_event(event)

    def _tidy(self, key: Key) -> None:
        """Forgets what is left of an object that is gone, once nothing of it is there."""
        owned = self._owned.get(key)
        if owned and key not in self.objects and not owned.rayjobs and not owned.pods:
            del self._owned[key]

    # --- what is known

    def rayjobs(self, key: Key) -> dict[str, Object]:
        return (
            {name: seen.obj for name, seen in self._owned[key].rayjobs.items()} if key in self._owned else {}
        )

    def pods(self, key: Key) -> list[Object]:
        return [seen.obj for seen in self._owned[key].pods.values()] if key in self._owned else []

    def deleted_pods(self, key: Key) -> list[Object]:
        return list(self._owned[key].deleted_pods) if key in self._owned else []

    def events(self, key: Key) -> list[dict[str, Any]]:
        return list(self._owned[key].events) if key in self._owned else []

    def output_writer(self, key: Key, output: str) -> Key | None:
        """Another object that writes to this output, is not finished, and has begun or was there first."""
        output = canonical(output)
        own = self.objects.get(key)
        return next(
            (
                other
                for other, summary in self.objects.items()
                if other != key and summary.output == output and summary.phase not in FINISHED
                and (summary.begun or own is None or summary.order < own.order)
            ),
            None,
        )  # fmt: skip

    def phases(self) -> Iterator[tuple[str, str]]:
        return ((key.kind, summary.phase) for key, summary in list(self.objects.items()))

    # --- what a list says against it

    def drop_missing_rayjobs(self, uids: set[str], listed_at: float) -> set[Key]:
        """Drops RayJobs that were known before a list and are not in it: a watch that was cut off tells of no
        deletion.
        """
        return self._drop_missing("rayjobs", uids, listed_at)

    def drop_missing_pods(self, uids: set[str], listed_at: float) -> set[Key]:
        """As drop_missing_rayjobs."""
        return self._drop_missing("pods", uids, listed_at)

    def drop_missing_objects(self, uids: set[str], listed_at: float) -> None:
        """As drop_missing_rayjobs."""
        for key, summary in list(self.objects.items()):
            if summary.uid not in uids and summary.seen_at < listed_at:
                del self.objects[key]
                self._tidy(key)

    def _drop_missing(self, kind: str, uids: set[str], listed_at: float) -> set[Key]:
        changed = set()
        for key, owned in list(self._owned.items()):
            seen: dict[str, Seen] = getattr(owned, kind)
            for name, (obj, at) in list(seen.items()):
                if obj["metadata"]["uid"] not in uids and at < listed_at:
                    del seen[name]
                    changed.add(key)
        return changed


def _output(obj: Object) -> str:
    """As the spec says it, which may not be valid."""
    spec = obj.get("spec") or {}
    values = spec.get("run") or spec.get("study") or spec
    return canonical(str(values.get("output") or "")) if isinstance(values, dict) else ""


def _key(obj: Object) -> Key | None:
    owner = owner_of(obj)
    return Key(*owner) if owner else None


def slim_rayjob(obj: Object) -> Object:
    """Without what the operator itself wrote into it: pod templates are most of its size."""
    spec = obj.get("spec") or {}
    groups = (spec.get("rayClusterSpec") or {}).get("workerGroupSpecs") or []
    kept = ("groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams")
    slim = [{name: group[name] for name in kept if name in group} for group in groups]
    cluster = {
        "workerGroupSpecs": slim,
        "authOptions": (spec.get("rayClusterSpec") or {}).get("authOptions") or {},
    }
    return {
        "metadata": _meta(obj),
        "spec": {"suspend": spec.get("suspend", False), "rayClusterSpec": cluster},
        "status": obj.get("status") or {},
    }


def slim_pod(obj: Object) -> Object:
    status = obj.get("status") or {}
    kept = ("phase", "reason", "message", "conditions", "containerStatuses", "initContainerStatuses", "podIP")
    return {
        "metadata": _meta(obj),
        "spec": {"nodeName": (obj.get("spec") or {}).get("nodeName")},
        "status": {name: status[name] for name in kept if name in status},
    }


def slim_event(obj: Object) -> dict[str, Any]:
    """As the driver archives it."""
    time = obj.get("lastTimestamp") or obj.get("eventTime") or obj["metadata"].get("creationTimestamp")
    return {
        "time": time,
        "reason": obj.get("reason") or "",
        "message": (obj.get("message") or "")[:1000],
        "object": (obj.get("involvedObject") or {}).get("name", ""),
    }


def _meta(obj: Object) -> Object:
    kept = (
        "name",
        "namespace",
        "uid",
        "labels",
        "ownerReferences",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    )
    return {name: obj["metadata"][name] for name in kept if name in obj["metadata"]}
