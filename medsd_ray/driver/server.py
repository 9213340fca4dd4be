"""What the operator hears from a running attempt and tells it, over HTTP: POST /poll, GET /healthz.

Answers come from memory: a thread reads the run's records, so that a store that is slow or away delays no
answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from medsd_ray.documents import parse_json
from medsd_ray.driver.protocol import RunProgress
from medsd_ray.errors import RunError
from medsd_ray.runs.checkpoints import saved_steps
from medsd_ray.runs.progress import read_progress
from medsd_ray.storage import Storage

READ_EVERY_S = 2.0


LONGEST_BODY = 4 << 20


MOST_EVENTS, MOST_WARNINGS = 1000, 20

MOST_CONNECTIONS, LONGEST_S = 16, 10.0
"""At the same time; and seconds that one may last. The operator has one at a time, of milliseconds."""


class DriverState:
    """What the driver has done so far, with which polls are answered, and the events that polls bring."""

    def __init__(self, stage: str, stop: Callable[[], None]):
        """`stop` is called for each poll that asks for an end."""
        self.stage = stage
        self.exit_code: int | None = None
        self.error: str | None = None
        self.end_polled = threading.Event()
        """Set once a poll was answered that all is done."""
        self._stop = stop
        self._progress: dict[str, Any] = {}
        self._warnings: list[str] = []
        self._checkpoint_step: int | None = None
        self._events: dict[str, dict[str, Any]] = {}

    def read(self, output: Storage) -> None:
        """Takes over what a training run has written."""
        self._progress = read_progress(output)
        complete, _ = saved_steps(output)
        self._checkpoint_step = complete[-1] if complete else None

    def warn(self, text: str) -> None:
        """A warning that the run's progress may not say, where the store took no writes."""
        if text not in self._warnings:
            self._warnings = [*self._warnings, text][-MOST_WARNINGS:]

    def keep_reading(self, output: Storage) -> None:
        """Calls `read` every few seconds from now on, in a thread of its own."""

        def run() -> None:
            while True:
                with contextlib.suppress(Exception):  # the store may answer again at the next look
                    self.read(output)
                time.sleep(READ_EVERY_S)

        threading.Thread(target=run, name="progress", daemon=True).start()

    def answer(self) -> dict[str, Any]:
        """A protocol.DriverAnswer, as JSON has it."""
        progress = {name: self._progress.get(name) for name in RunProgress.model_fields}
        return progress | {
            "stage": self.stage,
            "exit_code": self.exit_code,
            "error": self.error,
            "warnings": list(dict.fromkeys([*self._progress.get("warnings", []), *self._warnings]))[
                -MOST_WARNINGS:
            ],
            "checkpoint_step": self._checkpoint_step,
        }

    def take_poll(self, body: Any) -> None:
        """A poll's body: events of the attempt's objects, and whether it is to stop. Raises ValueError for
        another shape.
        """
        if not isinstance(body, dict) or not isinstance(events := body.get("events", []), list):
            raise ValueError('the body is {"events": [...], "stop": false}')
        for event in events[:MOST_EVENTS]:
            if len(self._events) < MOST_EVENTS:
                self._events[json.dumps(event, sort_keys=True)] = event
        if body.get("stop"):
            self._stop()

    @property
    def events(self) -> list[dict[str, Any]]:
        return list(self._events.values())


class PollServer(ThreadingHTTPServer):
    """Answers polls, a thread for each connection. What others do with the port is bounded: of more than
    MOST_CONNECTIONS the oldest is cut off, and so is one that lasts longer than LONGEST_S.
    """

    daemon_threads = True
    request_queue_size = 128
    """Connections that wait to be taken: of more, the next one's client would wait for seconds."""

    def __init__(self, state: DriverState, port: int, token_sha256: str | None):
        self.state, self.token_sha256 = state, token_sha256
        self._open: dict[socket.socket, float] = {}
        """Connections in the order in which they came, and when each did (seconds of the monotonic clock)."""
        self._lock = threading.Lock()
        super().__init__(("0.0.0.0", port), PollHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open[request] = time.monotonic()
            for old in list(self._open)[: max(0, len(self._open) - MOST_CONNECTIONS)]:
                self._cut_off(old)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Twice a second, by `serve_forever`."""
        now = time.monotonic()
        with self._lock:
            for old in [one for one, since in self._open.items() if now - since > LONGEST_S]:
                self._cut_off(old)

    def _cut_off(self, request: socket.socket) -> None:
        """Its thread finds the end of the connection, and closes it."""
        self._open.pop(request, None)
        with contextlib.suppress(OSError):  # it may have ended by itself
            request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a connection that ends in between is its other side's affair."""

    def knows(self, authorization: str) -> bool:
        """Whether a request may poll, by its Authorization header."""
        if self.token_sha256 is None:
            return True
        token = authorization.removeprefix("Bearer ").encode()
        return hmac.compare_digest(hashlib.sha256(token).hexdigest(), self.token_sha256)


class PollHandler(BaseHTTPRequestHandler):
    """POST /poll and GET /healthz."""

    server: PollServer
    timeout = 5
    """Seconds that a read waits."""

    def do_GET(self) -> None:
        if self.path == "/healthz":
            return self._send(200, {"ok": True})
        self._send(404, {"error": "GET /healthz"})

    def do_POST(self) -> None:
        state = self.server.state
        if self.path != "/poll":
            return self._send(404, {"error": "POST /poll"})
        if not self.server.knows(self.headers.get("Authorization") or ""):
            return self._send(401, {"error": "Authorization: Bearer and this attempt's token"})
        try:
            size = int(self.headers.get("Content-Length") or 0)
            if not 0 <= size <= LONGEST_BODY:
                raise ValueError(f"the body has more than {LONGEST_BODY} bytes")
            state.take_poll(parse_json(self.rfile.read(size) or b"{}"))
        except ValueError as error:
            return self._send(400, {"error": str(error)})
        answer = state.answer()
        self._send(200, answer)
        if answer["stage"] == "done":
            state.end_polled.set()

    def _send(self, code: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for each poll would bury the run's own."""


def serve(state: DriverState, port: int, token_sha256: str | None = None) -> None:
    """Answers polls on all addresses of this machine, in threads, until the process ends.

    Args:
        state: What the polls are answered with.
        port: Of TCP.
        token_sha256: SHA-256, in hexadecimal, of the token that a poll must bring; None: any is answered.

    Raises:
        RunError: The port is taken.
    """
    try:
        server = PollServer(state, port, token_sha256)
    except OSError as error:
        raise RunError(
            f"port {port} cannot be listened on: {error.strerror}; set MEDSD_PORT to a free one"
        ) from error
    threading.Thread(target=server.serve_forever, name="poll", daemon=True).start()
