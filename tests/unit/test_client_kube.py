"""What an API server's refusals become: one line each."""

from __future__ import annotations

import json

import pytest

from medsd_ray.client.kube import Exists, NotFound, error_of_status
from medsd_ray.errors import InputError, RunError


def answer(code: int, reason: str, message: str, **details: str) -> tuple[int, str]:
    """As the API server 1.34 sends it."""
    kind = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return code, json.dumps({**kind, "message": message, "reason": reason, "details": details, "code": code})


CRD = {"group": "medsd.io", "kind": "finetunes"}
STRICT = 'FineTune in version "v1alpha1" cannot be handled as a FineTune: strict decoding error: unknown field "spec.run.trainnig"'  # noqa: E501
INVALID = 'FineTune.medsd.io "x" is invalid: [spec.run.training.max_steps: Invalid value: 0: should be >= 1,\n second]'  # noqa: E501
FORBIDDEN = 'finetunes.medsd.io is forbidden: User "anna" cannot list resource "finetunes" in the namespace "research"'  # noqa: E501


@pytest.mark.parametrize(
    ("said", "error", "named"),
    [
        ((404, "404 page not found\n"), InputError, ["chart", "docs/kubernetes.md"]),
        (
            answer(404, "NotFound", 'finetunes.medsd.io "x" not found', name="x", **CRD),
            NotFound,
            ["FineTune x", "research"],
        ),
        (
            answer(404, "NotFound", 'namespaces "r" not found', name="r", kind="namespaces"),
            InputError,
            ["namespace r"],
        ),
        (answer(404, "NotFound", 'pods "p" not found', name="p", kind="pods"), NotFound, ["pod p"]),
        (answer(409, "AlreadyExists", "already exists", name="x", **CRD), Exists, ["FineTune x already"]),
        (
            answer(409, "Conflict", "the UID in the precondition differs", name="x", **CRD),
            RunError,
            ["precondition"],
        ),
        (answer(400, "BadRequest", STRICT), InputError, ["spec.run.trainnig"]),
        (
            answer(422, "Invalid", INVALID, name="x", **CRD),
            InputError,
            ["spec.run.training.max_steps", "second"],
        ),
        (answer(403, "Forbidden", FORBIDDEN, **CRD), InputError, ["anna", "--namespace"]),
        (answer(401, "Unauthorized", "Unauthorized"), InputError, ["sign in"]),
        (answer(503, "ServiceUnavailable", "etcd is away"), RunError, ["503", "etcd is away"]),
        ((502, "<html>\nBad Gateway</html>"), RunError, ["502", "Bad Gateway"]),
        ((None, "CERTIFICATE_VERIFY_FAILED"), InputError, ["CERTIFICATE_VERIFY_FAILED", "kubeconfig"]),
    ],
)
def test_refusals_in_words(said: tuple[int | None, str], error: type[Exception], named: list[str]):
    found = error_of_status(*said, namespace="research", host="https://cluster:6443")
    assert type(found) is error
    assert "\n" not in str(found) and all(name in str(found) for name in named), found
