"""The labels of what the operator makes for an object, by which the operator and the client find it again."""

from __future__ import annotations

from medsd_ray.spec.objects import GROUP

NAME, MANAGED_BY = "app.kubernetes.io/name", "app.kubernetes.io/managed-by"
INSTANCE, COMPONENT = "app.kubernetes.io/instance", "app.kubernetes.io/component"
"""The object's name, and its kind in small letters."""
ATTEMPT, OWNER_UID = f"{GROUP}/attempt", f"{GROUP}/owner-uid"
RAY_NODE_TYPE = "ray.io/node-type"
"""KubeRay's own, of a pod: `head` or `worker`."""

MEDSD = {MANAGED_BY: "medsd", NAME: "medsd"}
"""Of everything that the operator makes."""


def of_object(kind: str, name: str) -> dict[str, str]:
    """Of everything that is made for one object: an Evaluation and a FineTune may have the same name."""
    return {INSTANCE: name, COMPONENT: kind.lower()}


def selector(labels: dict[str, str]) -> str:
    """A label selector of the Kubernetes API for what has all these labels."""
    return ",".join(f"{name}={value}" for name, value in labels.items())
