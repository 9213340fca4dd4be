"""Names and labels of what the operator makes: of an attempt, a RayJob and a ConfigMap of the same name."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from medsd_ray.spec import labels
from medsd_ray.spec.objects import API_VERSION

MANAGER, PROGRESS_MANAGER = "medsd", "medsd-progress"
"""Field managers of server-side apply: the controller's, and the one of status.progress alone."""

SELECTOR = labels.selector(labels.MEDSD)
"""Of all that the operator makes."""


LONGEST = 40
"""KubeRay takes RayJobs of 47 characters at most, and adds to the name for its services and pods."""

KINDS = {"finetune": "FineTune", "study": "Study", "evaluation": "Evaluation"}
"""By the component label."""


LETTERS = {"FineTune": "", "Study": "s", "Evaluation": "e"}


def attempt_name(kind: str, name: str, number: int) -> str:
    """`x-1` for a FineTune's first attempt, `x-s1` for a Study's, `x-e1` for an Evaluation's: all may have
    the same name.
    """
    tail = f"-{LETTERS[kind]}{number}"
    if len(name) + len(tail) > LONGEST or not name[0].isalpha():  # a RayJob's name starts with a letter
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        room = LONGEST - len(tail) - len(digest) - 3
        name = f"m-{name[:room].rstrip('-')}-{digest}"
    return name + tail


def attempt_labels(kind: str, name: str, uid: str, number: int) -> dict[str, str]:
    """Of all that is made for attempt `number` of the object with this name and uid."""
    return {
        **labels.MEDSD,
        **labels.of_object(kind, name),
        labels.OWNER_UID: uid,
        labels.ATTEMPT: str(number),
    }


def owner_of(obj: dict[str, Any]) -> tuple[str, str, str] | None:
    """(kind, namespace, name) of the object for which a RayJob or pod was made, by its labels; None if it is
    not medsd's.
    """
    own = obj["metadata"].get("labels") or {}
    kind = KINDS.get(own.get(labels.COMPONENT, ""))
    name = own.get(labels.INSTANCE)
    if kind is None or not name or own.get(labels.MANAGED_BY) != "medsd":
        return None
    return kind, obj["metadata"]["namespace"], name


def attempt_of(obj: dict[str, Any]) -> int:
    number = (obj["metadata"].get("labels") or {}).get(labels.ATTEMPT, "")
    return int(number) if re.fullmatch(r"[0-9]+", number) else 0


def owner_reference(kind: str, name: str, uid: str) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, "name": name, "uid": uid, "controller": True}


def made_for(pod: dict[str, Any], uid: str) -> bool:
    """Whether a pod was made for the object with this uid, rather than for an earlier one of the same name.

    A pod's owner reference names the RayCluster, so that a label has to say it. Pods of attempts that were
    made before there was this label do not have it, and count.
    """
    return (pod["metadata"].get("labels") or {}).get(labels.OWNER_UID, uid) == uid


def owned_by(obj: dict[str, Any], uid: str) -> bool:
    return any(owner["uid"] == uid for owner in obj["metadata"].get("ownerReferences") or [])
