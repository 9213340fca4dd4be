"""No kubeconfig, no API server, and what an API server's refusals become: one line each, exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from command import assert_refused, medsd

from medsd_ray.client.kube import Exists, NotFound, error_of_status
from medsd_ray.errors import InputError, RunError


def kubeconfig(path: Path, server: str, **cluster: object) -> str:
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
                "users": [{"name": "u", "user": {"token": "secret"}}],
            }
        )
    )
    return str(path)


@pytest.mark.parametrize(
    "words", [["status"], ["status", "x"], ["logs", "x"], ["cancel", "x"], ["download", "x", "dest"]]
)
def test_without_a_kubeconfig_each_verb_says_what_to_set(tmp_path: Path, words: list[str]):
    assert_refused(medsd(*words, KUBECONFIG=str(tmp_path / "absent")), "KUBECONFIG", "absent")


def test_a_damaged_kubeconfig_and_an_unknown_context_are_named(tmp_path: Path):
    path = kubeconfig(tmp_path / "config", "http://127.0.0.1:9")
    assert_refused(medsd("status", "--context", "elsewhere", KUBECONFIG=path), "elsewhere")
    Path(path).write_text("{[")
    assert_refused(medsd("status", KUBECONFIG=path), "no usable kubeconfig")
    Path(path).write_text("[" * 50_000)
    assert_refused(medsd("status", KUBECONFIG=path), "no usable kubeconfig", "levels deep")
    kubeconfig(Path(path), "https://127.0.0.1:9", **{"certificate-authority": "absent.crt"})
    assert_refused(medsd("status", KUBECONFIG=path), "absent.crt")


def test_an_api_server_that_does_not_answer_is_named(tmp_path: Path):
    line = assert_refused(
        medsd("status", KUBECONFIG=kubeconfig(tmp_path / "config", "http://127.0.0.1:9")), "127.0.0.1:9"
    )
    assert "secret" not in line


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
