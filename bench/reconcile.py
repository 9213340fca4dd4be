"""How long the operator takes from `kubectl apply` to the RayJob when 500 FineTunes come at once: `python
bench/reconcile.py`.

On the test cluster (tests/cluster/up.sh: root and Go), with 100 GPU nodes that kwok simulates, or on the one
that KUBECONFIG names. Beside it, in the same run and by the same client, the floor: the same RayJobs made
straight at the API server. What KubeRay then makes of a RayJob is not in these figures: its operator does not
run here, and nothing trains.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from kubernetes import client, config, watch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from cluster.kube import Cluster, Object, local_cluster, wait_for  # noqa: E402
from programs import BIN, KUBERAY_CRDS  # noqa: E402

OURS, FLOOR = "bench-finetunes", "bench-rayjobs"  # namespaces
CLIENTS = 16
QUIET_S = 60
METRICS_PORT, HEALTH_PORT = 19090, 18080
FEWEST_CALLS = 2
"""Of an operator that makes a ConfigMap and a RayJob of each object, and reads and says nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=int, default=500)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "reconcile.json")
    given = parser.parse_args()
    here = os.environ.get("KUBECONFIG")
    with contextlib.nullcontext(Cluster(Path(here))) if here else local_cluster() as cluster:
        config.load_kube_config(str(cluster.kubeconfig))
        with gpu_nodes(cluster, given.nodes), operator(cluster):
            results = measure(given.objects)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(results, indent=1) + "\n")
    for row in results:
        print(
            f"{row['name']:<55} {row['ours']:>10} {row['unit']:<12} peer {row['peer']}  ratio {row['ratio']}"
        )


def measure(number: int) -> list[Object]:
    names = [f"run-{index:03d}" for index in range(number)]
    api = client.CustomObjectsApi()
    finetunes, rayjobs = ("medsd.io", "v1alpha1", OURS, "finetunes"), ("ray.io", "v1", FLOOR, "rayjobs")
    idle = metrics()
    ours = at_once(names, lambda name: api.create_namespaced_custom_object(*finetunes, finetune(name)), OURS)
    time.sleep(5)  # the last events in words are on their way
    made = metrics()
    time.sleep(QUIET_S)
    waited = metrics()
    first: Any = api.list_namespaced_custom_object("ray.io", "v1", OURS, "rayjobs", limit=1)
    model = first["items"][0]["spec"]
    floor = at_once(
        names, lambda name: api.create_namespaced_custom_object(*rayjobs, rayjob(name, model)), FLOOR
    )
    rows = [
        row(
            f"apply -> RayJob, p{share}, {number} at once",
            np.percentile(ours, share),
            np.percentile(floor, share),
            "s",
        )
        for share in (50, 99)
    ]
    calls = (made["medsd_api_calls_total"] - idle["medsd_api_calls_total"]) / number
    quiet = (waited["medsd_api_calls_total"] - made["medsd_api_calls_total"]) / number / (QUIET_S / 60)
    grown = (waited["process_resident_memory_bytes"] - idle["process_resident_memory_bytes"]) / number / 1024
    return [
        *rows,
        row("API calls per object, apply -> RayJob", calls, FEWEST_CALLS, "calls"),
        row("API calls per object while its pods wait", quiet, None, "calls/minute"),
        row(f"memory with {number} objects", waited["process_resident_memory_bytes"] / 2**20, None, "MiB"),
        row("memory per object", grown, None, "KiB"),
    ]


def at_once(names: list[str], create: Callable[[str], object], namespace: str) -> list[float]:
    """Seconds from the start of each creation to the news of its RayJob, all created as fast as the API
    server takes them.
    """
    sent: dict[str, float] = {}
    seen: dict[str, float] = {}
    done = threading.Event()

    def look() -> None:
        listing = client.CustomObjectsApi().list_namespaced_custom_object
        event: Any
        for event in watch.Watch().stream(listing, "ray.io", "v1", namespace, "rayjobs", timeout_seconds=600):
            meta = event["object"]["metadata"]
            seen.setdefault(
                re.sub(r"-1$", "", meta["name"]) if namespace == OURS else meta["name"], time.monotonic()
            )
            if len(seen) == len(names):
                done.set()
                return

    def send(name: str) -> None:
        sent[name] = time.monotonic()
        create(name)

    threading.Thread(target=look, daemon=True).start()
    time.sleep(1)  # the watch is there first
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(send, names))
    if not done.wait(600):
        raise SystemExit(f"only {len(seen)} of {len(names)} RayJobs came")
    return [seen[name] - sent[name] for name in names]


def row(name: str, ours: float, peer: float | None, unit: str) -> Object:
    return {
        "name": name,
        "ours": round(float(ours), 3),
        "peer": None if peer is None else round(float(peer), 3),
        "unit": unit,
        "ratio": None if peer is None else round(float(ours / peer), 2),
        "goal": None,
        "met": None,
        "device": f"cpu, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("medsd", "kopf", "kubernetes")}
        | {"python": platform.python_version()},
    }


# --- what is there


@contextlib.contextmanager
def gpu_nodes(cluster: Cluster, number: int) -> Iterator[None]:
    """Nodes of 8 GPUs each, which kwok keeps ready."""
    size = {"cpu": "128", "memory": "1Ti", "pods": "110", "nvidia.com/gpu": "8"}
    nodes = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": f"gpu-{index:03d}", "labels": {"type": "kwok", "pool": "gpu"}},
            "status": {"capacity": size, "allocatable": size},
        }
        for index in range(number)
    ]
    subprocess.run([ROOT / "tests/cluster/build.sh", "kwok"], check=True)
    command = [
        BIN / "kwok",
        f"--kubeconfig={cluster.kubeconfig}",
        "--manage-nodes-with-label-selector=type=kwok",
    ]
    with process(command, "kwok"):
        cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(nodes))
        cluster.kubectl("wait", "node", "-l", "type=kwok", "--for=condition=Ready", "--timeout=300s")
        yield
        cluster.kubectl("delete", "node", "-l", "type=kwok", "--wait=false")


@contextlib.contextmanager
def operator(cluster: Cluster) -> Iterator[None]:
    """medsd's operator as a process of this machine, with a Runtime; the objects go when it ends."""
    runtime = {
        "image": "medsd:bench",
        "pools": [
            {"name": "gpu", "gpus": 8, "cpus": "64", "memory": "256Gi", "nodeSelector": {"pool": "gpu"}}
        ],
    }
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(KUBERAY_CRDS))
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "k8s" / "crds"))
    established = ("wait", "crd", "--all", "--for=condition=Established", "--timeout=60s")
    wait_for("the CRDs", lambda: cluster.kubectl(*established, check=False).returncode == 0, 120)
    things = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in (OURS, FLOOR)]
    things.append(
        {"apiVersion": "medsd.io/v1alpha1", "kind": "Runtime", "metadata": {"name": "bench"}, "spec": runtime}
    )
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(things))
    settings = {
        "KUBECONFIG": str(cluster.kubeconfig),
        "MEDSD_WATCH_NAMESPACES": OURS,
        "MEDSD_METRICS_PORT": str(METRICS_PORT),
        "MEDSD_HEALTH_PORT": str(HEALTH_PORT),
    }
    try:
        with process([sys.executable, "-m", "medsd_ray.operator"], "operator", settings):
            wait_until_it_answers(f"http://127.0.0.1:{HEALTH_PORT}/healthz")
            time.sleep(5)  # it has read what is there
            yield
    finally:
        cluster.kubectl("delete", "-f", "-", "--wait=false", input=yaml.safe_dump_all(things))


@contextlib.contextmanager
def process(command: list, name: str, environment: dict[str, str] | None = None) -> Iterator[None]:
    log = Path(f"/tmp/medsd-bench-{name}.log")
    with log.open("wb") as output:
        running = subprocess.Popen(
            command, env=os.environ | (environment or {}), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield
        if running.poll() is not None:
            raise SystemExit(f"{name} ended with {running.returncode}; see {log}")
    finally:
        running.terminate()
        running.wait()


def wait_until_it_answers(url: str) -> None:
    for _ in range(120):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(1)
    raise SystemExit(f"{url} does not answer")


def metrics() -> dict[str, float]:
    """What the operator says of itself, summed over labels."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=30).read().decode()
    sums: dict[str, float] = {"medsd_api_calls_total": 0.0}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rpartition(" ")[::2]
            name = name.partition("{")[0]
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def finetune(name: str) -> Object:
    run = {
        "data": {"train": "s3://bucket/latents"},
        "components": {"unet": {"method": "full"}},
        "training": {"max_steps": 1000, "global_batch_size": 64},
        "resources": {"num_workers": 8},
        "output": f"s3://bucket/runs/{name}",
    }
    spec = {"runtime": "bench", "run": run}
    return {"apiVersion": "medsd.io/v1alpha1", "kind": "FineTune", "metadata": {"name": name}, "spec": spec}


def rayjob(name: str, spec: Object) -> Object:
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": name}, "spec": spec}


if __name__ == "__main__":
    main()
