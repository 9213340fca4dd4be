"""A Kubernetes cluster for the tests: kubectl and helm against it, and waiting for what it shall become."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from programs import BIN

STATE = Path("/tmp/medsd-kube")
"""Of the cluster on this machine: one path, so that a later one finds what an earlier one has left."""
Object = dict[str, Any]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Cluster:
    kubeconfig: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a process of the host needs to speak to this cluster."""
        return {"KUBECONFIG": str(self.kubeconfig), "PATH": f"{BIN}:{os.environ['PATH']}"}

    def kubectl(
        self, *args: str, input: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return self._run("kubectl", *args, input=input, check=check)

    def helm(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self._run("helm", *args, input=None, check=check)

    def _run(self, *command: str, input: str | None, check: bool) -> subprocess.CompletedProcess[str]:
        for pause in (1, 5, None):
            done = subprocess.run(
                command, env=os.environ | self.environment, input=input, capture_output=True, text=True
            )
            if pause is None or "Unable to connect to the server" not in done.stderr:
                break
            time.sleep(pause)  # so busy a machine that the request did not get there
        if check and done.returncode:
            pytest.fail(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def apply(self, *objects: Object) -> None:
        self.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(objects))

    def get(self, kind: str, name: str, namespace: str) -> Object | None:
        """The object, or None where there is none."""
        found = self.kubectl("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found").stdout
        return json.loads(found) if found.strip() else None

    def list(self, kind: str, namespace: str, *selector: str) -> list[Object]:
        return json.loads(self.kubectl("get", kind, "-n", namespace, "-o", "json", *selector).stdout)["items"]

    @contextmanager
    def history(self, kind: str, name: str, namespace: str) -> Iterator[list[Object]]:
        """Every state of an object from now on: a list that grows by itself."""
        states: list[Object] = []
        command = [
            "kubectl",
            "get",
            kind,
            "-n",
            namespace,
            f"--field-selector=metadata.name={name}",
            "--watch",
            "-o",
            "json",
        ]
        process = subprocess.Popen(
            command, env=os.environ | self.environment, stdout=subprocess.PIPE, text=True
        )
        reader = threading.Thread(target=_decode, args=(process.stdout, states), daemon=True)
        reader.start()
        try:
            yield states
        finally:
            process.terminate()
            process.wait()
            reader.join()


@contextmanager
def local_cluster() -> Iterator[Cluster]:
    """A cluster on this machine, from up.sh to down.sh. Who comes while there is one waits for its end."""
    scripts = Path(__file__).parent
    with Path(f"{STATE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            subprocess.run([scripts / "up.sh", STATE], check=True)
            yield Cluster(STATE / "admin.conf")
        finally:
            subprocess.run([scripts / "down.sh", STATE], check=True)


def _decode(lines, states: list[Object]) -> None:
    """JSON objects one after the other, each over many lines, as kubectl prints them."""
    text = ""
    for line in lines:
        text += line
        if line == "}\n":
            states.append(json.loads(text))
            text = ""


def wait_for(
    what: str, condition: Callable[[], Value], seconds: float = 600, said: Callable[[], object] = lambda: ""
) -> Value:
    """Asks each half second until the answer is true, and returns it. `said` is what a failure shows."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > end:
            pytest.fail(f"{what}: not so after {seconds} s\n{said()}")
        time.sleep(0.5)
    return answer


@dataclass(frozen=True)
class Run:
    """One FineTune (or Evaluation) on the cluster."""

    cluster: Cluster
    name: str
    namespace: str
    kind: str = "finetunes"
    owned: tuple[str, ...] = field(default=("pods", "rayjobs", "rayclusters", "configmaps"))

    def live(self) -> Object:
        found = self.cluster.get(self.kind, self.name, self.namespace)
        assert found is not None, f"{self.kind} {self.name} is gone"
        return found

    def status(self) -> Object:
        return self.live().get("status", {})

    def condition(self, type: str) -> Object:
        """The condition of this type; empty where there is none."""
        return next((c for c in self.status().get("conditions", []) if c["type"] == type), {})

    def step(self) -> int:
        return (self.status().get("progress") or {}).get("step") or 0

    def parts(self, kind: str, *selector: str) -> list[Object]:
        """What was made for this run, of one kind."""
        return self.cluster.list(
            kind, self.namespace, "-l", ",".join((f"app.kubernetes.io/instance={self.name}", *selector))
        )

    def pods(self, node_type: str) -> list[Object]:
        """`head` or `worker` pods that are not on their way out."""
        found = self.parts("pods", f"ray.io/node-type={node_type}")
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def left(self) -> list[str]:
        """All that is still there of this run, as kind/name."""
        return [f"{kind}/{part['metadata']['name']}" for kind in self.owned for part in self.parts(kind)]

    def wait(self, what: str, condition: Callable[[Object], Value], seconds: float = 600) -> Value:
        """Waits until `condition(status)`; fails at once where the run has failed and that was not waited
        for.
        """

        def met() -> Value:
            status = self.status()
            answer = condition(status)
            if not answer and status.get("phase") == "Failed":
                pytest.fail(f"{self.name} failed while waiting for {what}\n{self.said()}")
            return answer

        return wait_for(f"{self.name}: {what}", met, seconds, self.said)

    def wait_for_phase(self, phase: str, seconds: float = 600) -> None:
        self.wait(phase, lambda status: status.get("phase") == phase, seconds)

    def events(self) -> list[Object]:
        return self.cluster.list(
            "events", self.namespace, f"--field-selector=involvedObject.name={self.name}"
        )

    def delete(self) -> None:
        self.cluster.kubectl("delete", self.kind, self.name, "-n", self.namespace, "--ignore-not-found")
        wait_for(f"all of {self.name} to go", lambda: not self.left(), 600, self.left)

    def said(self) -> str:
        """What there is to say about this run, for a failed test."""
        here = ("-n", self.namespace)
        parts = ["# status", yaml.safe_dump(self.status())]
        parts += ["# pods", self.cluster.kubectl("get", "pods", "-o", "wide", *here).stdout]
        parts += [
            "# events",
            self.cluster.kubectl("get", "events", "--sort-by=.lastTimestamp", *here).stdout[-6000:],
        ]
        for pod in self.parts("pods", "ray.io/node-type=head"):
            name = pod["metadata"]["name"]
            log = self.cluster.kubectl("logs", name, "--tail=60", *here, check=False)
            parts += [f"# {name}", log.stdout + log.stderr]
        operator = ("logs", "-n", "medsd-system", "-l", "app.kubernetes.io/name=medsd", "--tail=60")
        return "\n".join([*parts, "# operator", self.cluster.kubectl(*operator, check=False).stdout])
