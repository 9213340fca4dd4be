"""FineTunes and the logs of their head pods, through the kubeconfig; every failure as one line that a user
can act on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
import yaml
from kubernetes import client, config
from kubernetes.config import kube_config

from medsd_ray.documents import parse_json
from medsd_ray.errors import InputError, RunError
from medsd_ray.spec import labels
from medsd_ray.spec.objects import GROUP, VERSION
from medsd_ray.spec.values import read_values

PLURAL = "finetunes"
TIMEOUTS_S = (5, 30)
"""To connect, and between two pieces of an answer."""


class NotFound(InputError):
    """The object is not there."""


class Exists(InputError):
    """An object of this name is there already."""


class Unreachable(InputError):
    """No API server answers; it may yet."""


@dataclass(frozen=True)
class Head:
    """The head pod of one attempt; `container_id` is None until its container has started."""

    pod: str
    container: str
    container_id: str | None
    running: bool


class Kube:
    """One namespace, as the kubeconfig's user may see it. Raises InputError where there is no usable
    kubeconfig.
    """

    def __init__(self, context: str | None, namespace: str | None):
        settings = client.Configuration()
        settings.retries = urllib3.Retry(0)  # pyright: ignore[reportAttributeAccessIssue]
        try:
            chosen = _load(context, settings)
        except (config.ConfigException, InputError, yaml.YAMLError, OSError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise InputError(
                f"no usable kubeconfig ({reason}); set KUBECONFIG, mend --context, "
                "or give --address of a Ray cluster"
            ) from error
        self.namespace = namespace or chosen.get("namespace") or "default"
        self.host = settings.host
        api = client.ApiClient(settings)
        self._objects, self._core = client.CustomObjectsApi(api), client.CoreV1Api(api)

    def create(self, body: dict[str, Any]) -> None:
        """Raises Exists, or InputError with the API server's words on wrong fields."""
        with self._errors():
            self._objects.create_namespaced_custom_object(
                *self._kind, body, field_validation="Strict", **_TIMED
            )

    def get(self, name: str) -> dict[str, Any]:
        """Raises NotFound."""
        with self._errors():
            found: Any = self._objects.get_namespaced_custom_object(*self._kind, name, **_TIMED)
        return found

    def list(self) -> list[dict[str, Any]]:
        with self._errors():
            answer: Any = self._objects.list_namespaced_custom_object(*self._kind, **_TIMED)
        return answer["items"]

    def suspend(self, name: str) -> None:
        with self._errors():
            self._objects.patch_namespaced_custom_object(
                *self._kind,
                name,
                {"spec": {"suspend": True}},
                _content_type="application/merge-patch+json",
                **_TIMED,
            )

    def delete(self, name: str, uid: str) -> None:
        """Deletes this very object; Kubernetes deletes all that it owns."""
        options = client.V1DeleteOptions(
            propagation_policy="Background", preconditions=client.V1Preconditions(uid=uid)
        )
        with self._errors():
            self._objects.delete_namespaced_custom_object(*self._kind, name, body=options, **_TIMED)

    def pods(self, name: str, also: dict[str, str] | None = None) -> list[Any]:
        """The pods of a FineTune; those alone that `also` have these labels."""
        selector = labels.selector(labels.of_object("FineTune", name) | (also or {}))
        with self._errors():
            return self._core.list_namespaced_pod(self.namespace, label_selector=selector, **_TIMED).items

    def head(self, name: str, attempt: int) -> Head | None:
        """The head pod of an attempt, or None where it is not there (any more)."""
        pods = self.pods(name, {labels.ATTEMPT: str(attempt), labels.RAY_NODE_TYPE: "head"})
        if not pods:
            return None
        pod = max(pods, key=lambda p: p.metadata.creation_timestamp)
        container = pod.spec.containers[0].name  # KubeRay: Ray's own container is the first
        found = next((s for s in pod.status.container_statuses or [] if s.name == container), None)
        running = found is not None and found.state.running is not None
        started = running or (found is not None and found.state.terminated is not None)
        return Head(pod.metadata.name, container, found.container_id if found and started else None, running)

    def log(self, head: Head, follow: bool, since_s: int | None = None) -> Iterator[tuple[str, str]]:
        """(time stamp, line) of a pod's log. Ends early where nothing came for a while or the connection
        broke.

        Raises NotFound where the pod is gone.
        """
        with self._errors():
            response = self._core.read_namespaced_pod_log(
                head.pod, self.namespace, container=head.container, follow=follow, timestamps=True,
                since_seconds=since_s, _preload_content=False, **_TIMED,
            )  # fmt: skip
        return _lines(response)

    @property
    def _kind(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.namespace, PLURAL

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except client.ApiException as error:
            raise error_of_status(
                error.status, error.body or error.reason, self.namespace, self.host
            ) from error
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, urllib3.exceptions.SSLError):
                raise error_of_status(None, str(reason), self.namespace, self.host) from error
            raise Unreachable(
                f"no API server answers at {self.host} ({type(reason).__name__}); "
                "mend the kubeconfig or the network, or choose another --context"
            ) from error


def _load(context: str | None, settings: client.Configuration) -> dict[str, Any]:
    """Fills the settings from the kubeconfig's context, and returns that context. Its current one need not be
    set.
    """
    for path in kube_config.KUBE_CONFIG_DEFAULT_LOCATION.split(os.pathsep):
        if Path(path).expanduser().is_file():
            read_values(Path(path).expanduser(), "kubeconfig", "a kubeconfig is a mapping")
    files = kube_config.KubeConfigMerger(kube_config.KUBE_CONFIG_DEFAULT_LOCATION)
    if files.config is None:
        raise config.ConfigException(f"there is no {kube_config.KUBE_CONFIG_DEFAULT_LOCATION}")
    base: Any = None  # certificates' relative paths then start from their own file's folder
    loader = kube_config.KubeConfigLoader(
        files.config, context, config_base_path=base, config_persister=files.save_changes
    )
    loader.load_and_set(settings)
    current: Any = loader.current_context
    return current["context"]


_TIMED: dict[str, Any] = {"_request_timeout": TIMEOUTS_S}


def _lines(response: Any) -> Iterator[tuple[str, str]]:
    rest = b""
    with contextlib.closing(response), contextlib.suppress(urllib3.exceptions.HTTPError):
        for chunk in response.stream(amt=None):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from map(_stamped, lines)
    if rest:
        yield _stamped(rest)


def _stamped(line: bytes) -> tuple[str, str]:
    stamp, _, text = line.decode(errors="replace").partition(" ")
    return stamp, text


def error_of_status(status: int | None, body: str | None, namespace: str, host: str) -> Exception:
    """The error to raise for an API server's refusal; `body` is the Status object it sent, or plain text."""
    try:
        said = parse_json(body or "")
    except ValueError:
        said = None
    status_object: dict[str, Any] = said if isinstance(said, dict) else {"message": body}
    details: dict[str, Any] = status_object.get("details") or {}
    message = " ".join(str(status_object.get("message") or "").split())
    name, where = details.get("name"), f"namespace {namespace} of {host}"
    if not status:  # the client's word for a TLS failure
        return InputError(
            f"{host}: no trusted connection ({message}); mend the cluster's certificates in the kubeconfig"
        )
    if status == 401:
        return InputError(
            f"{host}: these credentials are not accepted; sign in again, or choose another --context"
        )
    if status == 403:
        return InputError(
            f"{where}: {message}; choose another --namespace, or ask for a role that may do this"
        )
    if status == 404 and details.get("kind") == "namespaces":
        return InputError(f"{host} has no namespace {name}; make it, or choose another --namespace")
    if status == 404 and details.get("kind") == "pods":
        return NotFound(f"{where} has no pod {name} any more")
    if status == 404 and name:
        return NotFound(
            f"{where} has no FineTune {name}; `medsd status` lists them, --namespace chooses another"
        )
    if status == 404:
        return InputError(
            f"{host} does not know FineTunes: install medsd's chart there (docs/kubernetes.md), "
            "or mend --context"
        )
    if status == 409 and status_object.get("reason") == "AlreadyExists":
        return Exists(f"{where} has a FineTune {name} already")
    if status in (400, 422):
        return InputError(f"refused by the API server: {message}")
    return RunError(f"{where}: the API server answered {status}: {message}")
