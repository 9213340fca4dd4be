"""The poll of the driver: against the real one, and against what else may have its address."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import pytest

from medsd_ray.driver import server
from medsd_ray.driver.protocol import DriverAnswer
from medsd_ray.operator.controller import driver_client
from medsd_ray.operator.controller.driver_client import read_answer
from medsd_ray.operator.lifecycle.progress import progress_of


def ask(port: int, monkeypatch: pytest.MonkeyPatch, host: str = "127.0.0.1", **body) -> DriverAnswer | None:
    monkeypatch.setattr(driver_client, "DRIVER_PORT", port)

    async def run() -> DriverAnswer | None:
        async with aiohttp.ClientSession() as session:
            return await driver_client.poll(session, host, body.get("events", []), body.get("stop", False))

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
