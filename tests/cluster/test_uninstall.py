"""The chart's upgrade and removal leave what users made, and do not wait for what runs."""

from __future__ import annotations

from collections.abc import Callable

from cluster.kube import Cluster, Run

CRDS = {f"{plural}.medsd.io" for plural in ("runtimes", "finetunes", "studies", "evaluations")}


def crds(cluster: Cluster) -> set[str]:
    return {
        name.partition("/")[2] for name in cluster.kubectl("get", "crd", "-o", "name").stdout.split()
    } & CRDS


def test_upgrade_and_uninstall_leave_the_runs_alone(
    start: Callable[..., Run], runtime, cluster: Cluster, chart
):
    waits = {
        "runtime": runtime("nowhere", {"head": {"nodeSelector": {"medsd.io/test": "there-is-no-such-node"}}})
    }
    run = start("live", training={}, spec=waits)
    run.wait("its RayJob", lambda status: (status.get("attempt") or {}).get("uid"), 60)
    made = run.live()["metadata"]["uid"], run.status()["attempt"]

    chart("upgrade", "--set", "operator.resources.limits.memory=900Mi")
    assert (run.live()["metadata"]["uid"], run.status()["attempt"]) == made
    assert crds(cluster) == CRDS and cluster.kubectl("get", "runtime", "default").returncode == 0
    cluster.helm("test", "medsd", "-n", "medsd-system")

    cluster.helm(
        "uninstall", "medsd", "-n", "medsd-system", "--wait", "--timeout", "5m"
    )  # and does not wait for the run
    assert (run.live()["metadata"]["uid"], run.status()["attempt"]) == made
    assert crds(cluster) == CRDS and cluster.kubectl("get", "runtime", "default").returncode == 0
    run.delete()  # nothing holds it, though no operator is there

    chart("install")
    again = start("again", training={}, spec=waits)
    again.wait("its RayJob", lambda status: (status.get("attempt") or {}).get("uid"), 60)
