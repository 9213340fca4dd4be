"""Verbs without a kubeconfig or an API server that answers: one line each, exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from command import assert_refused, medsd


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
