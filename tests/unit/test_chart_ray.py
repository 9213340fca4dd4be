"""What the chart has for Ray: the always-on cluster, who reaches its pods and those of runs, and the nodes
they run on.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from chart import EVERYTHING, NAMESPACE, REPOSITORY, Object, one, render, runtime_of, with_helm

from medsd_ray.operator.manifests import pods
from medsd_ray.spec.objects import FineTuneSpec
from medsd_ray.spec.runtime import RuntimeSpec

__all__ = ["with_helm"]
pytestmark = pytest.mark.usefixtures("with_helm")


def comparable(group: Object) -> Object:
    """A group of a RayCluster without what only one of the two makers has a reason to set."""
    pod = json.loads(json.dumps(group["template"]["spec"]))
    (container,) = pod["containers"]
    own = {"medsd-job", "medsd-token"}
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] not in own]
    container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] not in own]
    container["env"] = sorted(container["env"], key=lambda entry: entry["name"])
    container["ports"] = [port for port in container.get("ports", []) if port["name"] != "medsd"]
    for name in ("restartPolicy", "serviceAccountName", "enableServiceLinks"):
        pod.pop(name, None)
    return {"rayStartParams": group["rayStartParams"], "pod": pod}


@pytest.mark.parametrize("given", ["sample", "least"])
def test_the_raycluster_has_the_pods_of_a_run(tmp_path: Path, given: str):
    spec = yaml.safe_load((REPOSITORY / "k8s/samples/runtime.yaml").read_text())["spec"]
    if given == "least":
        spec = {
            "image": "medsd@sha256:12",
            "pools": [{"name": "tiny", "cpus": "500m", "sharedMemory": "128Mi"}, {"name": "gpu"}],
        }
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"runtime": {"spec": spec}, "rayCluster": {"enabled": True}}))
    objects = render(values=values)
    cluster = one(objects, "RayCluster", "medsd-ray")["spec"]
    runtime = RuntimeSpec.model_validate(runtime_of(objects)["spec"])
    run = yaml.safe_load((REPOSITORY / "k8s/samples/finetune.yaml").read_text())["spec"]
    run["run"]["name"] = "run"
    run = FineTuneSpec.model_validate(run)
    assert comparable(cluster["headGroupSpec"]) == comparable(pods.head_group(runtime, run, "run-1", {}))
    assert [group["groupName"] for group in cluster["workerGroupSpecs"]] == [
        pool.name for pool in runtime.pools
    ]
    for group, pool in zip(cluster["workerGroupSpecs"], runtime.pools, strict=True):
        assert comparable(group) == comparable(pods.worker_group(runtime, run, pool, 1, 1, {}))
        assert (group["minReplicas"], group["maxReplicas"]) == (0, pool.maxPods)


def test_the_raycluster_scales_its_pools():
    bounds = "rayCluster.pools[0].name=gpu,rayCluster.pools[0].minPods=1,rayCluster.pools[0].maxPods=3"
    objects = render(
        "rayCluster.enabled=true", "rayCluster.idleTimeoutSeconds=60", "runNamespaces={a,b}", bounds
    )
    cluster = one(objects, "RayCluster", "medsd-ray", "a")["spec"]
    (group,) = cluster["workerGroupSpecs"]
    assert (group["groupName"], group["minReplicas"], group["maxReplicas"]) == ("gpu", 1, 3)
    assert cluster["enableInTreeAutoscaling"] is True and cluster["authOptions"] == {"mode": "token"}
    assert (cluster["autoscalerOptions"]["version"], cluster["autoscalerOptions"]["idleTimeoutSeconds"]) == (
        "v2",
        60,
    )
    head = cluster["headGroupSpec"]["template"]["spec"]
    # KubeRay gives the head's account the right to scale; what users run on the head has not its token.
    assert head["serviceAccountName"] == "medsd-ray" and head["automountServiceAccountToken"] is False
    assert "medsd-token" not in {mount["name"] for mount in head["containers"][0]["volumeMounts"]}
    assert group["template"]["spec"]["serviceAccountName"] == "medsd-worker"


def test_who_reaches_a_runs_pods():
    objects = render(*EVERYTHING, "runNamespaces={a,b}")
    runs = {"app.kubernetes.io/name": "medsd", "ray.io/is-ray-node": "yes"}
    for namespace in ("a", "b"):
        policy = one(objects, "NetworkPolicy", "medsd-runs", namespace)["spec"]
        assert policy["podSelector"] == {"matchLabels": runs} and policy["policyTypes"] == ["Ingress"]
        assert policy["ingress"] == [
            {"from": [{"podSelector": {"matchLabels": runs}}]},
            {
                "from": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
                "ports": [{"protocol": "TCP", "port": 8080}],
            },
        ]
        heads = one(objects, "NetworkPolicy", "medsd-heads", namespace)["spec"]
        assert heads["podSelector"]["matchLabels"] == {
            "app.kubernetes.io/name": "medsd",
            "ray.io/node-type": "head",
        }
        driver, dashboard = heads["ingress"]
        assert driver["ports"] == [{"protocol": "TCP", "port": pods.DRIVER_PORT}]
        (operator,) = driver["from"]
        assert operator["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": NAMESPACE}
        labels = one(objects, "Deployment", "medsd-operator")["spec"]["template"]["metadata"]["labels"]
        assert operator["podSelector"]["matchLabels"].items() <= labels.items()
        assert dashboard["ports"] == [{"protocol": "TCP", "port": 8265}]
        (kuberay,) = dashboard["from"]
        assert kuberay["podSelector"]["matchLabels"] == {"app.kubernetes.io/component": "kuberay-operator"}


def test_prometheus_finds_the_operator_and_the_runs():
    objects = render(*EVERYTHING, "runNamespaces={a,b}")
    service = one(objects, "Service", "medsd-operator")
    monitor = one(objects, "ServiceMonitor", "medsd-operator")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert {it["port"] for it in monitor["endpoints"]} <= {port["name"] for port in service["spec"]["ports"]}
    pod_monitor = one(objects, "PodMonitor", "medsd-runs")["spec"]
    assert pod_monitor["namespaceSelector"] == {"matchNames": ["a", "b"]}
    assert pod_monitor["selector"]["matchLabels"]["ray.io/is-ray-node"] == "yes"
    assert pod_monitor["podMetricsEndpoints"][0]["port"] == "metrics"  # KubeRay's name for Ray's


def test_node_pools_and_queues_speak_of_the_same_pools():
    folder = REPOSITORY / "k8s"
    queues = list(yaml.safe_load_all((folder / "kueue/queues.yaml").read_text()))
    flavors = {it["metadata"]["name"]: it["spec"] for it in queues if it["kind"] == "ResourceFlavor"}
    eks = yaml.safe_load((folder / "node-pools/eks.yaml").read_text())
    gke = list(yaml.safe_load_all((folder / "node-pools/gke.yaml").read_text()))
    labels = [
        {group["name"]: group["labels"] for group in eks["managedNodeGroups"]},
        {pool["metadata"]["name"]: pool["spec"]["nodeConfig"]["labels"] for pool in gke},
        {name: flavor["nodeLabels"] for name, flavor in flavors.items()},
    ]
    assert labels == [{name: {"medsd.io/pool": name} for name in ("cpu", "a100")}] * 3
    (queue,) = [it for it in queues if it["kind"] == "ClusterQueue"]
    (group,) = queue["spec"]["resourceGroups"]
    assert {flavor["name"] for flavor in group["flavors"]} == set(flavors)
    (local,) = [it for it in queues if it["kind"] == "LocalQueue"]
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
