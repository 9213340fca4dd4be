"""Which address of a Ray cluster is one; what is done before a local Ray starts, and said where it cannot."""

from __future__ import annotations

import errno
import socket
import stat
from pathlib import Path

import pytest
import ray
from ray._private import ray_constants

from medsd_ray import ray_cluster
from medsd_ray.errors import InputError
from medsd_ray.ray_cluster import check_address, ensure_ray


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.parametrize(
    "address",
    [
        "nonsense",
        "http://127.0.0.1:8265",
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:99999",
        "a b:1",
        "::1:1",
        "ray://",
    ],
)
def test_what_is_no_address_is_refused_before_ray_is_asked(monkeypatch: pytest.MonkeyPatch, address: str):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked"))
    for ask in (check_address, ensure_ray):
        with pytest.raises(
            InputError, match=r"RAY_ADDRESS=.*: not the address of a Ray cluster; set HOST:PORT"
        ):
            ask()


def test_an_address_where_nothing_answers_is_said_soon(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", f"localhost:{port}"):
            monkeypatch.setenv("RAY_ADDRESS", address)
            check_address()
    for address in (f"127.0.0.1:{port}", "no-such-host.invalid:6379"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(InputError, match="no Ray cluster answers at RAY_ADDRESS"):
            check_address()


@pytest.mark.parametrize("address", [None, "", "local"])
def test_no_address_is_a_ray_of_this_machine_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str | None
):
    """Its node's address is 127.0.0.1, and its token is for this user to read, an older one too."""
    if address is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    started: list[dict] = []
    monkeypatch.setattr(ray, "init", lambda **options: started.append(options))
    token = tmp_path / ".ray" / "auth_token"
    for _ in range(2):
        ensure_ray(3)
        assert stat.S_IMODE(token.stat().st_mode) == 0o600 and len(token.read_text()) == 64
        token.chmod(0o644)
    assert not ray_constants.ENABLE_RAY_CLUSTER
    assert started[0]["num_cpus"] >= 3 and started[0]["include_dashboard"] is False


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: x"),
            "set a shorter",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write there .No space left"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot write there .Permission denied"),
    ],
)
def test_a_folder_that_ray_cannot_use_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: OSError, words: str
):
    tries: list[None] = []

    def init(**_: object) -> None:
        tries.append(None)
        raise error

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", "/a/long/one")
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(InputError, match=f"TMPDIR=/a/long/one: .*{words}"):
        ensure_ray()
    assert len(tries) == 1
