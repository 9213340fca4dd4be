"""A Kubernetes API server in memory, over HTTP, with what the operator relies on of the real one.

It keeps resource versions and uids, applies a status on the server's side for each field manager, refuses
what a precondition forbids, and lets a test fail any request before or after it took effect. It has no
controllers: `collect_garbage` is the garbage collector, called by hand.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from medsd_ray.spec.objects import PLURALS
from medsd_ray.spec.status import Status

Object = dict[str, Any]
Address = tuple[str, str, str]
"""Plural, namespace, name."""
FieldPath = tuple[str, ...]

KINDS = {plural: kind for kind, plural in PLURALS.items()} | {
    "runtimes": "Runtime",
    "rayjobs": "RayJob",
    "rayclusters": "RayCluster",
    "configmaps": "ConfigMap",
    "pods": "Pod",
    "events": "Event",
}
BORN = "2026-01-01T00:00:00Z"
REASONS = {403: "Forbidden", 404: "NotFound", 409: "Conflict", 422: "Invalid"}


class Refusal(Exception):
    """The server's refusal of a request, as an HTTP status and words."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code, self.message = code, message


@dataclass
class Fault:
    """What goes wrong with the next request of this verb and resource, such as PATCH of finetunes/status.

    `meanwhile` is called first, as what somebody else does just before the request arrives. `code` is then
    answered in place of the request's effect; code 0 cuts the connection off. With `after`, the request takes
    effect and its answer alone is lost.
    """

    verb: str
    resource: str
    code: int | None = None
    message: str = "injected"
    after: bool = False
    meanwhile: Callable[[], None] | None = None
    times: int = 1


class ApiServer:
    """The objects by their addresses, and the requests so far as (verb, resource)."""

    def __init__(self) -> None:
        self.objects: dict[Address, Object] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.not_installed: set[str] = set()
        """Plurals of which the server knows nothing."""
        self.cut_off_at: tuple[int, bool] | None = None
        """The connection is cut off at this one of `writes`, counted from 0; True: after it took effect."""
        self._version = 0
        self._uids = 0
        self._applied: dict[tuple[Address, str], dict[FieldPath, Any]] = {}
        """The status fields that each field manager has applied."""

    @property
    def writes(self) -> list[tuple[str, str]]:
        """The requests that change something other than events."""
        return [
            (verb, resource)
            for verb, resource in self.requests
            if verb not in ("GET", "LIST") and resource != "events"
        ]

    # --- what a test does

    def put(self, plural: str, made: Object) -> Object:
        """Makes an object, or replaces it as another client would. Its uid is kept where it has one."""
        made = copy.deepcopy(made)
        meta = made["metadata"]
        address = (plural, meta.get("namespace", ""), meta["name"])
        made["kind"] = KINDS[plural]
        if "uid" not in meta:
            self._uids += 1
            meta["uid"] = f"uid-{self._uids}"
        meta.setdefault("generation", 1)
        meta.setdefault("creationTimestamp", BORN)
        self._store(address, made)
        return self.objects[address]

    def get(self, plural: str, name: str, namespace: str = "lab") -> Object:
        return self.objects[plural, namespace, name]

    def of(self, plural: str) -> list[Object]:
        return [made for (kind, _, _), made in self.objects.items() if kind == plural]

    def change(self, plural: str, name: str, namespace: str = "lab", **parts: Any) -> None:
        """Another client's change of whole parts, such as spec or status."""
        address = (plural, namespace, name)
        made = copy.deepcopy(self.objects[address]) | copy.deepcopy(parts)
        if "spec" in parts:
            made["metadata"]["generation"] += 1
        self._store(address, made)

    def remove(self, plural: str, name: str, namespace: str = "lab") -> None:
        del self.objects[plural, namespace, name]

    def fail(self, verb: str, resource: str, code: int | None = None, **how: Any) -> None:
        self.faults.append(Fault(verb, resource, code, **how))

    def collect_garbage(self) -> None:
        """Removes what is deleted in the foreground, then what has no owner any more, and so on."""
        while gone := [address for address, made in self.objects.items() if self._is_garbage(made)]:
            for address in gone:
                del self.objects[address]

    def _is_garbage(self, made: Object) -> bool:
        uids = {other["metadata"]["uid"] for other in self.objects.values()}
        owners = made["metadata"].get("ownerReferences") or []
        return bool(made["metadata"].get("deletionTimestamp")) or (
            bool(owners) and not any(owner["uid"] in uids for owner in owners)
        )

    # --- HTTP

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        return app

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        plural, namespace, name, part = _split(request.path)
        verb = "LIST" if request.method == "GET" and not name else request.method
        resource = f"{plural}/{part}" if part else plural
        self.requests.append((verb, resource))
        number = len(self.writes) - 1 if (verb, resource) in self.writes[-1:] else None
        body = json.loads(await request.read() or b"null")
        if self.cut_off_at == (number, False):
            return _cut_off(request)
        fault = self._next_fault(verb, resource)
        try:
            if fault and fault.meanwhile:
                fault.meanwhile()
            if fault and fault.code is not None and not fault.after:
                if fault.code == 0:
                    return _cut_off(request)
                raise Refusal(fault.code, fault.message)
            if plural in self.not_installed:
                raise Refusal(404, "the server could not find the requested resource")
            answer = self._answer(request, verb, (plural, namespace, name), part, body)
        except Refusal as refusal:
            reason = REASONS.get(refusal.code, "")
            status = {"kind": "Status", "code": refusal.code, "reason": reason, "message": refusal.message}
            return web.json_response(status, status=refusal.code)
        if (fault and fault.after) or self.cut_off_at == (number, True):
            return _cut_off(request)
        return web.json_response(answer)

    def _next_fault(self, verb: str, resource: str) -> Fault | None:
        for fault in self.faults:
            if (fault.verb, fault.resource) == (verb, resource) and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def _answer(
        self, request: web.Request, verb: str, address: Address, part: str, body: Any
    ) -> dict[str, Any]:
        plural, namespace, _ = address
        match verb:
            case "LIST":
                return self._list(request, plural, namespace)
            case "GET":
                return self._there(address)
            case "POST":
                return self._create((plural, namespace, body["metadata"]["name"]), body)
            case "DELETE":
                return self._delete(address, body)
        match request.content_type:
            case "application/apply-patch+yaml" if part == "status":
                return self._apply_status(address, request.query["fieldManager"], body)
            case "application/apply-patch+yaml":
                return self._apply(address, body)
            case "application/json-patch+json":
                return self._json_patch(address, body)
            case "application/merge-patch+json":
                return self._store(address, _merged(self._there(address), body))
        raise AssertionError(f"{verb} {request.content_type}")

    def _list(self, request: web.Request, plural: str, namespace: str) -> dict[str, Any]:
        wanted = dict(
            pair.split("=", 1) for pair in request.query.get("labelSelector", "").split(",") if pair
        )
        items = [
            made
            for (kind, where, _), made in self.objects.items()
            if kind == plural
            and namespace in ("", where)
            and wanted.items() <= (made["metadata"].get("labels") or {}).items()
        ]
        if "PartialObjectMetadataList" in request.headers.get("Accept", ""):
            items = [{"metadata": made["metadata"]} for made in items]
        return {"metadata": {}, "items": items}

    # --- the objects

    def _there(self, address: Address) -> Object:
        if address not in self.objects:
            raise Refusal(404, f'{address[0]} "{address[2]}" not found')
        return self.objects[address]

    def _store(self, address: Address, made: Object) -> Object:
        """An object that is as it was keeps its version."""
        if self.objects.get(address) != made:
            self._version += 1
            made["metadata"]["resourceVersion"] = str(self._version)
            self.objects[address] = made
        return self.objects[address]

    def _create(self, address: Address, body: Object) -> Object:
        if address in self.objects:
            raise Refusal(409, f'{address[0]} "{address[2]}" already exists')
        return self.put(address[0], body)

    def _delete(self, address: Address, options: dict[str, Any]) -> Object:
        made = copy.deepcopy(self._there(address))
        wanted = (options.get("preconditions") or {}).get("uid", made["metadata"]["uid"])
        if wanted != made["metadata"]["uid"]:
            raise Refusal(409, f"the uid in the precondition is {wanted}")
        if options.get("propagationPolicy") == "Foreground":  # until collect_garbage
            made["metadata"]["deletionTimestamp"] = BORN
            return self._store(address, made)
        return self.objects.pop(address)

    def _apply(self, address: Address, body: Object) -> Object:
        if address not in self.objects:
            return self._create(address, body)
        made = copy.deepcopy(self.objects[address])
        meta = made["metadata"] | body["metadata"]
        return self._store(address, made | body | {"metadata": meta})

    def _apply_status(self, address: Address, manager: str, body: Object) -> Object:
        """The fields of `body` become the manager's; those that it had and has no more go."""
        made = copy.deepcopy(self._there(address))
        if (
            body["metadata"].get("resourceVersion", made["metadata"]["resourceVersion"])
            != made["metadata"]["resourceVersion"]
        ):
            raise Refusal(
                409, "the object has been modified; please apply your changes to the latest version"
            )
        before = self._applied.get((address, manager), {})
        after = dict(_leaves(body["status"]))
        others = {
            path
            for (where, other), fields in self._applied.items()
            if where == address and other != manager
            for path in fields
        }
        status = made.setdefault("status", {})
        for path in set(before) - set(after) - others:
            _unset(status, path)
        for path, value in after.items():
            _set(status, path, value)
        try:
            Status.model_validate(status)
        except ValidationError as error:
            raise Refusal(422, f"status is invalid: {error}") from error
        self._applied[address, manager] = after
        return self._store(address, made)

    def _json_patch(self, address: Address, operations: list[dict[str, Any]]) -> Object:
        made = copy.deepcopy(self._there(address))
        for operation in operations:
            *folders, last = operation["path"].strip("/").split("/")
            place: Any = made
            for name in folders:
                place = place[int(name)] if isinstance(place, list) else place[name]
            if operation["op"] == "replace" and last not in place:
                raise Refusal(422, f"{operation['path']}: not there")
            place[last] = operation["value"]
        return self._store(address, made)


def _cut_off(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def _split(path: str) -> tuple[str, str, str, str]:
    """Plural, namespace, name and subresource of a URL's path; empty where it has none."""
    parts = path.strip("/").split("/")
    parts = parts[3:] if parts[0] == "apis" else parts[2:]
    namespace = ""
    if parts[0] == "namespaces":
        namespace, parts = parts[1], parts[2:]
    plural, name, part = [*parts, "", ""][:3]
    return plural, namespace, name, part


def _leaves(values: dict[str, Any], path: FieldPath = ()) -> Iterator[tuple[FieldPath, Any]]:
    """Fields that are no objects; lists are taken as a whole."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _set(values: dict[str, Any], path: FieldPath, value: Any) -> None:
    *folders, last = path
    for name in folders:
        values = values.setdefault(name, {})
    values[last] = copy.deepcopy(value)


def _unset(values: dict[str, Any], path: FieldPath) -> None:
    *folders, last = path
    for name in folders:
        values = values.get(name, {})
    values.pop(last, None)


def _merged(made: Object, patch: dict[str, Any]) -> Object:
    merged = copy.deepcopy(made)
    for name, value in patch.items():
        merged[name] = _merged(merged.get(name, {}), value) if isinstance(value, dict) else value
    return merged
