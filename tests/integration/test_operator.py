"""The operator's own process against a real API server, without nodes and without KubeRay, whose words the
test says itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from operator_world import RUNTIME, finetune
from programs import BIN, KUBERAY_CRDS, missing

CRDS = Path(__file__).parents[2] / "k8s/crds"
WAIT_S = 120
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(what: str, met: Callable[[], Any]) -> Any:
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if found := met():
            return found
        time.sleep(0.3)
    raise AssertionError(f"{what}: not within {WAIT_S} s")


class ApiServer:
    """etcd, kube-apiserver and the garbage collector, in a folder of their own."""

    def __init__(self, folder: Path):
        self.folder, self.port, self.processes = folder, free_port(), []
        self.kubeconfig = folder / "kubeconfig"

    def start(self) -> None:
        etcd, peer, folder = free_port(), free_port(), self.folder
        key = folder / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        (folder / "tokens.csv").write_text("test,admin,1,system:masters\n")
        cluster = {"server": f"https://127.0.0.1:{self.port}", "insecure-skip-tls-verify": True}
        context = {"cluster": "c", "user": "u"}
        self.kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": {"token": "test"}}],
                    "contexts": [{"name": "x", "context": context}],
                    "current-context": "x",
                }
            )
        )
        here, there = f"http://127.0.0.1:{etcd}", f"http://127.0.0.1:{peer}"
        self._run(
            "etcd",
            f"--data-dir={folder}/etcd",
            f"--listen-client-urls={here}",
            f"--advertise-client-urls={here}",
            f"--listen-peer-urls={there}",
            f"--initial-advertise-peer-urls={there}",
            f"--initial-cluster=default={there}",
            "--unsafe-no-fsync",
        )
        self._run(
            "kube-apiserver",
            f"--etcd-servers={here}",
            f"--secure-port={self.port}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={folder}/certs",
            f"--token-auth-file={folder}/tokens.csv",
            "--authorization-mode=RBAC",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://medsd.test",
            "--service-cluster-ip-range=10.99.0.0/24",
        )
        wait_for("the API server", lambda: self.kubectl("get", "--raw", "/readyz", check=False) == "ok")
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            "--secure-port=0",
            "--controllers=garbage-collector-controller,serviceaccount-controller",
            f"--service-account-private-key-file={key}",
        )
        crds = [f"-f={CRDS}", f"-f={KUBERAY_CRDS}/ray.io_rayjobs.yaml"]
        self.kubectl("apply", "--server-side", *crds)
        for path in ("medsd.io/v1alpha1/runtimes", "medsd.io/v1alpha1/finetunes", "ray.io/v1/rayjobs"):
            wait_for(path, lambda path=path: self.kubectl("get", "--raw", f"/apis/{path}", check=False))
        wait_for("the default service account", lambda: self.get("serviceaccount", "default"))

    def _run(self, name: str, *words: str) -> None:
        log = (self.folder / f"{name}.log").open("wb")
        self.processes.append(subprocess.Popen([BIN / name, *words], stdout=log, stderr=subprocess.STDOUT))

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()

    def kubectl(self, *words: str, check: bool = True, input: str | None = None) -> str:
        command = [BIN / "kubectl", f"--kubeconfig={self.kubeconfig}", *words]
        done = subprocess.run(command, capture_output=True, text=True, input=input)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        text = self.kubectl(
            "get", kind, name, "-n", "default", "-o", "json", "--show-managed-fields", "--ignore-not-found"
        )
        return json.loads(text) if text else None

    def apply(self, made: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", input=json.dumps(made))

    def say(self, kind: str, name: str, **status: Any) -> None:
        """Another controller's words in a status."""
        patch = json.dumps({"status": status})
        self.kubectl(
            "patch", kind, name, "-n", "default", "--subresource=status", "--type=merge", "-p", patch
        )


class Operator:
    def __init__(self, api: ApiServer):
        self.api, self.health, self.metrics = api, free_port(), free_port()

    def start(self) -> None:
        ports = {"MEDSD_HEALTH_PORT": str(self.health), "MEDSD_METRICS_PORT": str(self.metrics)}
        environment = os.environ | {"KUBECONFIG": str(self.api.kubeconfig)} | ports
        self.log = (self.api.folder / "operator.log").open("ab")
        command = [sys.executable, "-m", "medsd_ray.operator"]
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def read(self, port: int, path: str) -> str | None:
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).read().decode()
        except (urllib.error.URLError, OSError):
            return None


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    if absent := missing(*PROGRAMS):
        pytest.skip(f"{', '.join(absent)} not in {BIN}: make programs builds them")
    server = ApiServer(tmp_path_factory.mktemp("kube"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def operator(api: ApiServer) -> Iterator[Operator]:
    operator = Operator(api)
    operator.start()
    yield operator
    operator.kill()


def status(api: ApiServer) -> dict[str, Any]:
    return (api.get("finetune", "x") or {}).get("status") or {}


def phase(api: ApiServer, wanted: str) -> dict[str, Any]:
    return wait_for(wanted, lambda: (found := status(api)).get("phase") == wanted and found)


def head_pod(attempt: int, labels: dict[str, str]) -> dict[str, Any]:
    meta = {
        "name": f"x-{attempt}-abcde-head-1",
        "namespace": "default",
        "labels": labels | {"ray.io/node-type": "head"},
    }
    spec = {
        "containers": [{"name": "ray", "image": "none"}],
        "nodeName": "node-1",
        "terminationGracePeriodSeconds": 0,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def runs(api: ApiServer, attempt: int) -> None:
    """What KubeRay and kubelet do until Ray runs the job."""
    rayjob = wait_for(f"RayJob x-{attempt}", lambda: api.get("rayjob", f"x-{attempt}"))
    pod = head_pod(attempt, rayjob["metadata"]["labels"])
    api.apply(pod)
    api.say("pod", pod["metadata"]["name"], phase="Running", conditions=[{"type": "Ready", "status": "True"}])
    api.say(
        "rayjob",
        f"x-{attempt}",
        jobStatus="RUNNING",
        jobDeploymentStatus="Running",
        rayClusterName=f"x-{attempt}-abcde",
    )
    phase(api, "Running")


def test_a_life_with_an_operator_that_is_killed_at_each_step(api: ApiServer, operator: Operator):
    made = {"apiVersion": "medsd.io/v1alpha1", **finetune(retries={"backoffSeconds": 1})}
    made["metadata"] = {"name": "x", "namespace": "default"}
    api.apply(made)
    wait_for("the words on the runtime", lambda: "no Runtime default" in status(api).get("message", ""))
    api.apply(
        {
            "apiVersion": "medsd.io/v1alpha1",
            "kind": "Runtime",
            "metadata": {"name": "default"},
            "spec": RUNTIME,
        }
    )
    phase(api, "Starting")
    assert json.loads(operator.read(operator.health, "/healthz") or "{}") == {"well": True}

    object_, rayjob = api.get("finetune", "x"), wait_for("the RayJob", lambda: api.get("rayjob", "x-1"))
    assert object_ and "finalizers" not in object_["metadata"]
    assert set(object_["metadata"]["annotations"]) == {"kubectl.kubernetes.io/last-applied-configuration"}
    written = {(field["manager"], field["operation"]) for field in object_["metadata"]["managedFields"]}
    assert ("medsd", "Apply") in written
    assert rayjob["metadata"]["ownerReferences"][0]["uid"] == object_["metadata"]["uid"]
    assert api.get("configmap", "x-1")

    operator.kill()  # what happens now, its successor finds
    api.apply(head_pod(1, rayjob["metadata"]["labels"]))
    api.say("rayjob", "x-1", jobStatus="RUNNING", jobDeploymentStatus="Running")
    operator.start()
    phase(api, "Running")

    operator.kill()
    api.say(
        "rayjob",
        "x-1",
        jobStatus="FAILED",
        jobDeploymentStatus="Failed",
        message="failed with exit code 143, no logs",
    )
    operator.start()
    wait_for("the old RayJob's end", lambda: api.get("rayjob", "x-1") is None)
    api.kubectl("delete", "pod", "x-1-abcde-head-1", "-n", "default", "--force", "--grace-period=0")
    runs(api, 2)
    assert status(api)["failures"]["infrastructure"] == 1

    operator.kill()
    api.kubectl(
        "patch", "finetune", "x", "-n", "default", "--type=merge", "-p", '{"spec": {"suspend": true}}'
    )
    api.say(
        "rayjob",
        "x-2",
        jobStatus="FAILED",
        jobDeploymentStatus="Failed",
        message="failed with exit code 130, no logs",
    )
    operator.start()
    wait_for("an end of the second attempt", lambda: api.get("rayjob", "x-2") is None)
    api.kubectl("delete", "pod", "x-2-abcde-head-1", "-n", "default", "--force", "--grace-period=0")
    phase(api, "Suspended")
    api.kubectl(
        "patch", "finetune", "x", "-n", "default", "--type=merge", "-p", '{"spec": {"suspend": false}}'
    )
    runs(api, 3)
    api.say("rayjob", "x-3", jobStatus="SUCCEEDED", jobDeploymentStatus="Complete")
    found = phase(api, "Succeeded")
    assert found["attempt"]["number"] == 3 and found["attempt"]["rayJob"] == "x-3"

    metrics = operator.read(operator.metrics, "/metrics") or ""
    assert (
        'medsd_objects{kind="FineTune",phase="Succeeded"} 1.0' in metrics
        and "medsd_api_calls_total" in metrics
    )
    events = json.loads(api.kubectl("get", "events", "-n", "default", "-o", "json"))["items"]
    assert {"Succeeded", "Suspended"} <= {
        event["reason"] for event in events if event["involvedObject"]["kind"] == "FineTune"
    }

    api.kubectl("delete", "finetune", "x", "-n", "default")
    wait_for("all of it to go", lambda: not api.get("rayjob", "x-3") and not api.get("configmap", "x-1"))
