"""A Ray cluster of several nodes on this machine, with a dashboard and a token, as KubeRay would start it in
pods.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

STARTS = 3  # a busy machine does not start Ray in the 30 s that Ray allows itself
HEAD = """
import ray, sys
memory = 100_000_000
ray.init(
    address="local", num_cpus=0, include_dashboard=True, object_store_memory=memory, _temp_dir=sys.argv[1]
)
print("started", ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()  # until the tests end, however they do
"""
"""`ray start` would also start a server for Ray clients, and end with it where that is slow to start."""


class Nodes:
    """The head takes no work, like a head pod. Its folder is its own, so that no other Ray here takes it for
    the machine's.
    """

    environment: dict[str, str]
    """What a driver needs to find and to be let into this cluster, as KubeRay gives it to a job."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="mr-"))  # short: Ray's sockets lie in it
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

    def start_head(self) -> None:
        said = self._start([sys.executable, "-c", HEAD, str(self._folder)], "started ")
        self.environment["RAY_ADDRESS"] = said.split("started ")[1].split()[0]

    def add(self, cpus: int) -> None:
        """One more node; Ray knows of it when this returns."""
        agent, grpc, metrics = _free_ports(3)
        self._start(
            [
                str(Path(sys.executable).with_name("ray")),
                "start",
                f"--address={self.environment['RAY_ADDRESS']}",
                "--block",
                f"--num-cpus={cpus}",
                "--object-store-memory=100000000",
                f"--dashboard-agent-listen-port={agent}",
                f"--dashboard-agent-grpc-port={grpc}",
                f"--metrics-export-port={metrics}",
            ],
            "Ray runtime started",
        )

    def _start(self, command: list[str], sign: str) -> str:
        """Starts a node and returns what it has said once `sign` is among it."""
        environment = os.environ | self.environment | {"RAY_USAGE_STATS_ENABLED": "0"}
        environment.pop("RAY_ADDRESS", None)  # the words say it
        for _ in range(STARTS):
            log = self._folder / f"node-{len(self.processes)}.log"
            with log.open("wb") as output:
                # A session of its own: Ray's reaper ends the whole process group of a node that was killed.
                self.processes.append(
                    subprocess.Popen(
                        command,
                        env=environment,
                        stdin=subprocess.PIPE,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
            while self.processes[-1].poll() is None:
                if sign in (said := log.read_text()):
                    return said
                time.sleep(0.3)
        raise RuntimeError(f"Ray does not start: {log.read_text()[-2000:]}")

    def kill(self, number: int) -> None:
        """Ends a node (by its number, the head is 0) as a lost machine ends: at once, with all that runs on
        it.
        """
        process = self.processes[number]
        if process.poll() is None:
            process.send_signal(
                signal.SIGSTOP
            )  # stopped first, so that it starts nothing while its children go
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):  # it has ended with another of them
                    child.kill()
            process.kill()
        process.wait()

    def close(self) -> None:
        for number in reversed(range(len(self.processes))):
            self.kill(number)
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def ray_nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    try:
        nodes.start_head()
        yield nodes
    finally:
        nodes.close()


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
