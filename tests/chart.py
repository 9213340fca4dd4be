"""medsd's chart as Helm renders it, for its tests."""

from __future__ import annotations

import json
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from programs import find

REPOSITORY = Path(__file__).parents[1]
CHART = REPOSITORY / "helm" / "medsd"
HELM = find("helm")
NAMESPACE = "medsd-system"
Object = dict[str, Any]

EVERYTHING = (
    "rayCluster.enabled=true",
    "networkPolicy.enabled=true",
    "networkPolicy.prometheus[0].namespaceSelector.matchLabels.name=monitoring",
    "serviceMonitor.enabled=true",
    "podMonitor.enabled=true",
    "image.pullSecrets={registry}",
    "dashboard.enabled=true",
    "dashboard.root=s3://bucket/studies",
    "dashboard.token.secretName=dashboard-token",
    "runtime.spec.s3.secretName=s3-credentials",
)


@pytest.fixture(scope="session")
def with_helm() -> None:
    if not HELM:
        pytest.skip("there is no helm: make programs builds it")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert HELM
    return subprocess.run([HELM, *arguments], capture_output=True, text=True)


@cache
def template(
    *sets: str, values: Path | None = None, api: str = "ray.io/v1"
) -> subprocess.CompletedProcess[str]:
    given = [word for value in sets for word in ("--set", value)] + (["-f", str(values)] if values else [])
    known = ["--api-versions", api] if api else []
    return helm("template", "medsd", str(CHART), "-n", NAMESPACE, "--kube-version", "1.34", *known, *given)


def render(*sets: str, crds: bool = False, values: Path | None = None) -> list[Object]:
    """The chart's objects; its CRDs are left out otherwise, as they take a second to read."""
    done = template(f"crds.install={str(crds).lower()}", *sets, values=values)
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.load_all(done.stdout, yaml.CSafeLoader) if found]


def one(objects: list[Object], kind: str, name: str, namespace: str | None = None) -> Object:
    found = [
        it
        for it in objects
        if (it["kind"], it["metadata"]["name"]) == (kind, name)
        and namespace in (None, it["metadata"].get("namespace"))
    ]
    assert len(found) == 1, [(it["kind"], it["metadata"]["name"]) for it in objects]
    return found[0]


def runtime_of(objects: list[Object]) -> Object:
    return json.loads(one(objects, "ConfigMap", "medsd-runtime")["data"]["runtime.json"])


def version() -> str:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
