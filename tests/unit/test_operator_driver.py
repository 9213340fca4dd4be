"""The poll of the driver: against the real one, and against what else may have its address."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import aiohttp
import pytest

from medsd_ray.driver import server
from medsd_ray.driver.protocol import DriverAnswer
from medsd_ray.operator.__main__ import read_poll_key
from medsd_ray.operator.controller import driver_client
from medsd_ray.operator.controller.driver_client import read_answer
from medsd_ray.operator.lifecycle.progress import progress_of
from medsd_ray.operator.manifests.poll_token import poll_token, token_sha256


def ask(port: int, monkeypatch: pytest.MonkeyPatch, host: str = "127.0.0.1", **body) -> DriverAnswer | None:
    monkeypatch.setattr(driver_client, "DRIVER_PORT", port)

    async def run() -> DriverAnswer | None:
        async with aiohttp.ClientSession() as session:
            return await driver_client.poll(
                session, host, body.get("events", []), body.get("stop", False), body.get("token")
            )

    return asyncio.run(run())


@contextmanager
def answering(data: bytes, code: int = 200) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(code)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def free_port() -> int:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return server.server_address[1]


def test_the_real_driver_answers_and_hears_the_stop(monkeypatch: pytest.MonkeyPatch):
    stopped = threading.Event()
    state = server.DriverState("train", stop=stopped.set)
    port = free_port()
    server.serve(state, port)
    answer = ask(port, monkeypatch)
    assert answer is not None and answer.stage == "train" and answer.exit_code is None and not answer.over
    assert not stopped.is_set()
    event = {"time": "2026-01-01T00:00:00Z", "reason": "Pulled", "message": "m", "object": "x-1"}
    state.exit_code, state.stage, state.error = 130, "done", "medsd: interrupted"
    answer = ask(port, monkeypatch, events=[event], stop=True)
    assert (
        answer is not None
        and answer.over
        and answer.exit_code == 130
        and answer.error == "medsd: interrupted"
    )
    assert stopped.is_set() and state.events == [event]


def test_a_driver_hears_who_has_the_token_of_its_attempt_alone(monkeypatch: pytest.MonkeyPatch):
    stopped = threading.Event()
    state, port, key = server.DriverState("train", stop=stopped.set), free_port(), b"k" * 64
    token = poll_token(key, "uid", 1)
    server.serve(state, port, token_sha256(token))
    others = (None, "", "x", token_sha256(token), poll_token(key, "uid", 2), poll_token(b"o" * 64, "uid", 1))
    for other in others:
        assert ask(port, monkeypatch, token=other, stop=True, events=[{"reason": "x"}]) is None
    assert not stopped.is_set() and state.events == []
    answer = ask(port, monkeypatch, token=token, stop=True)
    assert answer is not None and answer.stage == "train" and stopped.is_set()


def test_requests_that_never_end_hold_neither_threads_nor_the_port(monkeypatch: pytest.MonkeyPatch):
    """100 connections of half a request: the operator is answered, and threads stay bounded."""
    monkeypatch.setattr(server, "LONGEST_S", 0.2)
    monkeypatch.setattr(server.PollHandler, "timeout", 60)
    port, before = free_port(), threading.active_count()
    server.serve(server.DriverState("train", stop=lambda: None), port)
    half = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(100)]
    for one in half:
        with contextlib.suppress(OSError):  # those that are cut off already
            one.sendall(b"POST /poll HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    assert ask(port, monkeypatch) is not None
    end = time.monotonic() + 30
    while threading.active_count() - before > 2:  # all are cut off, by their number or in time
        assert time.monotonic() < end
        time.sleep(0.05)
    for one in half:
        one.close()
    assert ask(port, monkeypatch) is not None


@pytest.mark.parametrize(("data", "code"), [(None, "No such file"), (b"short", "32 bytes or more")])
def test_a_key_that_cannot_be_used_ends_the_operator_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes | None, code: str
):
    path = tmp_path / "key"
    monkeypatch.setenv("MEDSD_POLL_KEY_FILE", str(path))
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(SystemExit, match=code):
        read_poll_key()
    path.write_bytes(b"k" * 64 + b"\n")
    assert read_poll_key() == b"k" * 64
    monkeypatch.delenv("MEDSD_POLL_KEY_FILE")
    assert read_poll_key() is None


def test_nobody_there(monkeypatch: pytest.MonkeyPatch):
    assert ask(free_port(), monkeypatch) is None
    assert ask(free_port(), monkeypatch, host="::1") is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"[]",
        b'{"stage": "lunch"}',
        b'{"stage": "train", "step": "many"}',
        b"[" * 100_000,
        b"x" * (2 << 20),
    ],
)
def test_someone_else_there(data: bytes, monkeypatch: pytest.MonkeyPatch):
    with answering(data) as port:
        assert ask(port, monkeypatch) is None


def test_an_answer_becomes_progress():
    values = {
        "stage": "train",
        "step": 7,
        "total": 20,
        "loss": 0.25,
        "images_per_second": 3.5,
        "eta_seconds": 3723.4,
        "lastUpdateTime": "2026-01-01T01:00:00+01:00",
        "checkpoint_step": 5,
        "something_new": 1,
    }
    answer = read_answer(json.dumps(values).encode())
    assert answer is not None
    assert progress_of(answer).model_dump(exclude_none=True) == {
        "stage": "train",
        "step": 7,
        "totalSteps": 20,
        "loss": 0.25,
        "imagesPerSecond": 3.5,
        "etaSeconds": 3723.4,
        "timeLeft": "1:02:03",
        "lastCheckpointStep": 5,
        "lastUpdateTime": "2026-01-01T00:00:00Z",
    }


def test_a_loss_that_is_no_number_is_left_out():
    answer = read_answer(b'{"stage": "train", "loss": NaN, "eta_seconds": 1}')
    assert answer is not None and progress_of(answer).loss is None
