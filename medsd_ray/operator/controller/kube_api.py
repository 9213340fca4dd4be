"""The API server: the few calls that the operator makes, each counted."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes_asyncio import client, config

from medsd_ray.operator.controller.metrics import API_CALLS
from medsd_ray.operator.controller.queue import Retry
from medsd_ray.operator.lifecycle.decision import Event
from medsd_ray.operator.manifests.naming import MANAGER
from medsd_ray.spec.objects import API_VERSION, GROUP, PLURALS, VERSION
from medsd_ray.times import stamp

TIMEOUT_S = 30


CONNECTIONS = 32


PAGE = 500


SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")

APPLY, JSON_PATCH, MERGE = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
)


METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


LONGEST_NOTE = 1024


class ApiError(Retry):
    """The API server's answer, in its words. Code 0: there is none."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Resource:
    group: str
    version: str
    plural: str

    def path(self, namespace: str | None, name: str | None = None, part: str | None = None) -> str:
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        pieces = [root, f"namespaces/{namespace}" if namespace else None, self.plural, name, part]
        return "/".join(piece for piece in pieces if piece)


RAYJOBS, RAYCLUSTERS = Resource("ray.io", "v1", "rayjobs"), Resource("ray.io", "v1", "rayclusters")


CONFIGMAPS, PODS, EVENTS = (
    Resource("", "v1", "configmaps"),
    Resource("", "v1", "pods"),
    Resource("", "v1", "events"),
)


RUNTIMES = Resource(GROUP, VERSION, "runtimes")
OBJECTS = {kind: Resource(GROUP, VERSION, plural) for kind, plural in PLURALS.items()}


class Api:
    def __init__(self, api_client: client.ApiClient):
        self._client = api_client

    @classmethod
    async def connect(cls) -> Api:
        """By the pod's service account, or by KUBECONFIG outside a cluster."""
        settings = client.Configuration()
        if SERVICE_ACCOUNT.exists() and "KUBECONFIG" not in os.environ:
            config.load_incluster_config(client_configuration=settings)
        else:
            await config.load_kube_config(client_configuration=settings)
        settings.connection_pool_maxsize = CONNECTIONS
        return cls(client.ApiClient(settings))

    async def close(self) -> None:
        await self._client.close()

    async def _call(
        self,
        method: str,
        resource: Resource,
        path: str,
        query: dict[str, str],
        body: Any = None,
        **headers: str,
    ) -> dict[str, Any]:
        """Raises ApiError."""
        all_headers = {"Accept": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        url = f"{path}?{urlencode(query)}" if query else path
        try:
            answer = await self._client.call_api(
                url,
                method,
                header_params=all_headers,
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=TIMEOUT_S,
            )
            data = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            API_CALLS.labels(method, resource.plural, 0).inc()
            raise ApiError(0, f"the API server does not answer: {error or type(error).__name__}") from error
        API_CALLS.labels(method, resource.plural, answer.status).inc()
        if answer.status >= 400:
            raise ApiError(answer.status, _error_message(data, answer.status))
        return json.loads(data)

    async def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
        """None where it is not there."""
        try:
            return await self._call("GET", resource, resource.path(namespace, name), {})
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def list(
        self, resource: Resource, namespace: str | None, selector: str = "", whole: bool = False
    ) -> list[dict[str, Any]]:
        """Of one namespace or of all. Without `whole`, the metadata alone."""
        items: list[dict[str, Any]] = []
        query = {"limit": str(PAGE)} | ({"labelSelector": selector} if selector else {})
        while True:
            page = await self._call(
                "GET",
                resource,
                resource.path(namespace),
                query,
                Accept="application/json" if whole else METADATA,
            )
            items += page.get("items") or []
            more = (page.get("metadata") or {}).get("continue")
            if not more:
                return items
            query["continue"] = more

    async def create(self, resource: Resource, body: dict[str, Any]) -> dict[str, Any]:
        path = resource.path(body["metadata"]["namespace"])
        return await self._call(
            "POST", resource, path, {"fieldManager": MANAGER}, body, Content_Type="application/json"
        )

    async def apply(
        self, resource: Resource, body: dict[str, Any], manager: str, part: str | None = None
    ) -> dict[str, Any]:
        """Server-side apply: the fields of `body` become the manager's, and those that it had before and has
        no more go.
        """
        meta = body["metadata"]
        query = {"fieldManager": manager, "force": "true"}
        path = resource.path(meta["namespace"], meta["name"], part)
        return await self._call("PATCH", resource, path, query, body, Content_Type=APPLY)

    async def patch(
        self, resource: Resource, namespace: str, name: str, body: Any, kind: str
    ) -> dict[str, Any]:
        path = resource.path(namespace, name)
        return await self._call("PATCH", resource, path, {"fieldManager": MANAGER}, body, Content_Type=kind)

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str, propagation: str) -> None:
        """Of the one with this uid; nothing if it is gone or another has its name."""
        body = {"propagationPolicy": propagation, "preconditions": {"uid": uid}}
        try:
            await self._call(
                "DELETE", resource, resource.path(namespace, name), {}, body, Content_Type="application/json"
            )
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    async def post_event(
        self, kind: str, namespace: str, name: str, uid: str, event: Event, now: datetime
    ) -> None:
        """An event on an object; the same one again is counted up."""
        identity = f"{uid} {event.reason} {event.message}"
        title = f"{name[:200]}.{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        about = {"apiVersion": API_VERSION, "kind": kind, "namespace": namespace, "name": name, "uid": uid}
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": title, "namespace": namespace},
            "involvedObject": about,
            "type": event.kind,
            "reason": event.reason,
            "message": event.message[:LONGEST_NOTE],
            "source": {"component": MANAGER},
            "reportingComponent": "medsd.io/operator",
            "firstTimestamp": stamp(now),
            "lastTimestamp": stamp(now),
            "count": 1,
        }
        try:
            await self.create(EVENTS, body)
        except ApiError as error:
            if error.code != 409:
                raise
            before = await self.get(EVENTS, namespace, title)
            count = ((before or {}).get("count") or 1) + 1
            await self.patch(EVENTS, namespace, title, {"count": count, "lastTimestamp": stamp(now)}, MERGE)


def _error_message(data: bytes, code: int) -> str:
    try:
        return json.loads(data)["message"]
    except (ValueError, KeyError, TypeError):
        return f"the API server answered {code}"
