"""What the watches have told: the parts of RayJobs, pods and events that the state machine reads. In memory
alone.

It may lag behind the API server, so nothing is decided from what is missing here: see reconcile.py.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from medsd_ray.operator.manifests.naming import owner_of

MOST_EVENTS = 200
"""Of one object; the newest."""

MOST_GONE = 16


FINISHED = ("Succeeded", "Failed")


Made = dict[str, Any]


class Key(NamedTuple):
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Seen(NamedTuple):
    """An object as last seen, and when (seconds of the monotonic clock)."""

    made: Made
    at: float


class Owned(NamedTuple):
    rayjobs: dict[str, Seen]
    pods: dict[str, Seen]
    gone: deque[Made]
    events: deque[dict[str, Any]]


class Index:
    def __init__(self) -> None:
        self.runtimes: dict[str, Made] = {}
        self.objects: dict[Key, Made] = {}
        self._owned: defaultdict[Key, Owned] = defaultdict(
            lambda: Owned({}, {}, deque(maxlen=MOST_GONE), deque(maxlen=MOST_EVENTS))
        )
        self._pod_owner: dict[tuple[str, str], Key] = {}
        self._early: deque[Made] = deque(maxlen=1000)  # events of pods that no watch has told of yet

    # --- what the watches bring

    def see_runtime(self, made: Made, deleted: bool) -> list[Key]:
        """The objects that may wait for a runtime of this name."""
        name = made["metadata"]["name"]
        if deleted:
            self.runtimes.pop(name, None)
        else:
            self.runtimes[name] = made
        return [
            key
            for key, one in self.objects.items()
            if one["runtime"] == name and one["phase"] not in FINISHED
        ]

    def see_object(self, made: Made, deleted: bool) -> Key:
        key = Key(made["kind"], made["metadata"]["namespace"], made["metadata"]["name"])
        if deleted:
            # News of two objects of one name may come in any order: the deleted one may be another.
            if (self.objects.get(key) or {}).get("uid") == made["metadata"]["uid"]:
                del self.objects[key]
            self._tidy(key)
        else:
            self.objects[key] = {
                "at": time.monotonic(),
                "uid": made["metadata"]["uid"],
                "resourceVersion": made["metadata"]["resourceVersion"],
                "runtime": (made.get("spec") or {}).get("runtime"),
                "phase": (made.get("status") or {}).get("phase", "Pending"),
                "output": _output(made),
                "begun": bool(((made.get("status") or {}).get("attempt") or {}).get("number")),
                "order": (made["metadata"].get("creationTimestamp", ""), made["metadata"]["uid"]),
            }
        return key

    def see_rayjob(self, made: Made, deleted: bool) -> Key | None:
        key = _key(made)
        if key is None:
            return None
        jobs, name = self._owned[key].rayjobs, made["metadata"]["name"]
        if deleted:
            if name in jobs and jobs[name].made["metadata"]["uid"] == made["metadata"]["uid"]:
                del jobs[name]
            self._tidy(key)
        else:
            jobs[name] = Seen(slim_rayjob(made), time.monotonic())
        return key

    def see_pod(self, made: Made, deleted: bool) -> Key | None:
        key = _key(made)
        if key is None:
            return None
        meta, owned = made["metadata"], self._owned[key]
        if deleted:
            owned.pods.pop(meta["name"], None)
            owned.gone.append(slim_pod(made))
            self._pod_owner.pop((meta["namespace"], meta["name"]), None)
            self._tidy(key)
        else:
            new = meta["name"] not in owned.pods
            owned.pods[meta["name"]] = Seen(slim_pod(made), time.monotonic())
            self._pod_owner[meta["namespace"], meta["name"]] = key
            if new:
                self._take_early(meta["namespace"], meta["name"])
        return key

    def see_event(self, made: Made) -> Key | None:
        """Of a pod. One that comes before its pod waits for it."""
        about = made.get("involvedObject") or {}
        key = self._pod_owner.get((about.get("namespace", ""), about.get("name", "")))
        if key is None:
            self._early.append(made)
            return None
        event = slim_event(made)
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

    def rayjobs(self, key: Key) -> dict[str, Made]:
        return (
            {name: seen.made for name, seen in self._owned[key].rayjobs.items()} if key in self._owned else {}
        )

    def pods(self, key: Key) -> list[Made]:
        return [seen.made for seen in self._owned[key].pods.values()] if key in self._owned else []

    def gone(self, key: Key) -> list[Made]:
        return list(self._owned[key].gone) if key in self._owned else []

    def events(self, key: Key) -> list[dict[str, Any]]:
        return list(self._owned[key].events) if key in self._owned else []

    def holder(self, key: Key, output: str) -> Key | None:
        """Another object that writes to this output, is not finished, and has begun or was there first."""
        mine = self.objects.get(key)
        return next(
            (
                other
                for other, one in self.objects.items()
                if other != key and one["output"] == output and one["phase"] not in FINISHED
                and (one["begun"] or mine is None or one["order"] < mine["order"])
            ),
            None,
        )  # fmt: skip

    def phases(self) -> Iterator[tuple[str, str]]:
        return ((key.kind, one["phase"]) for key, one in list(self.objects.items()))

    # --- what a list says against it

    def keep_rayjobs(self, uids: set[str], listed_at: float) -> set[Key]:
        """Drops RayJobs that were known before a list and are not in it: a watch that was cut off tells of no
        deletion.
        """
        return self._keep("rayjobs", uids, listed_at)

    def keep_pods(self, uids: set[str], listed_at: float) -> set[Key]:
        return self._keep("pods", uids, listed_at)

    def keep_objects(self, uids: set[str], listed_at: float) -> None:
        for key, one in list(self.objects.items()):
            if one["uid"] not in uids and one["at"] < listed_at:
                del self.objects[key]
                self._tidy(key)

    def _keep(self, what: str, uids: set[str], listed_at: float) -> set[Key]:
        changed = set()
        for key, owned in list(self._owned.items()):
            seen: dict[str, Seen] = getattr(owned, what)
            for name, one in list(seen.items()):
                if one.made["metadata"]["uid"] not in uids and one.at < listed_at:
                    del seen[name]
                    changed.add(key)
        return changed


def _output(made: Made) -> str:
    """As the spec says it, which may not be valid."""
    spec = made.get("spec") or {}
    values = spec.get("run") or spec.get("study") or spec
    return str(values.get("output") or "").rstrip("/") if isinstance(values, dict) else ""


def _key(made: Made) -> Key | None:
    owner = owner_of(made)
    return Key(*owner) if owner else None


def slim_rayjob(made: Made) -> Made:
    """Without what the operator itself wrote into it: pod templates are most of its size."""
    spec = made.get("spec") or {}
    groups = (spec.get("rayClusterSpec") or {}).get("workerGroupSpecs") or []
    kept = ("groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams")
    slim = [{name: group[name] for name in kept if name in group} for group in groups]
    return {
        "metadata": _meta(made),
        "spec": {"suspend": spec.get("suspend", False), "rayClusterSpec": {"workerGroupSpecs": slim}},
        "status": made.get("status") or {},
    }


def slim_pod(made: Made) -> Made:
    status = made.get("status") or {}
    kept = ("phase", "reason", "message", "conditions", "containerStatuses", "initContainerStatuses", "podIP")
    return {
        "metadata": _meta(made),
        "spec": {"nodeName": (made.get("spec") or {}).get("nodeName")},
        "status": {name: status[name] for name in kept if name in status},
    }


def slim_event(made: Made) -> dict[str, Any]:
    """As the driver archives it."""
    time = made.get("lastTimestamp") or made.get("eventTime") or made["metadata"].get("creationTimestamp")
    return {
        "time": time,
        "reason": made.get("reason") or "",
        "message": (made.get("message") or "")[:1000],
        "object": (made.get("involvedObject") or {}).get("name", ""),
    }


def _meta(made: Made) -> Made:
    kept = (
        "name",
        "namespace",
        "uid",
        "labels",
        "ownerReferences",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    )
    return {name: made["metadata"][name] for name in kept if name in made["metadata"]}
