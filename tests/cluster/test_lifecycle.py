"""One run that is bereft of its operator, a worker and its head, suspended, resumed and deleted: nothing is
lost beyond the last checkpoint, and nothing is left over.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from cluster.kube import Cluster, Run, wait_for

from medsd_ray.runs.checkpoints import saved_steps
from medsd_ray.storage import Storage, open_storage

EVERY, BATCH = 4, 32
ENDLESS = 100_000
"""Steps: deletion ends this run."""


def test_a_run_outlives_what_carries_it(start: Callable[..., Run], cluster: Cluster, data):
    training = {"max_steps": ENDLESS, "global_batch_size": BATCH, "micro_batch_size": 1}
    run = start(
        "long",
        training=training,
        checkpoint={"every_steps": EVERY, "keep_last": 9},
        spec={"retries": {"backoffSeconds": 1}},
    )
    output = open_storage(f"{data.root}/runs/long")
    run.wait("a checkpoint", lambda _: newest(output) >= EVERY and run.step() >= EVERY)

    restart_the_operator(run, cluster)
    lose_a_worker(run, cluster, output)
    suspend_and_resume(run, cluster, output)
    lose_the_head(run, cluster, output)

    run.delete()
    assert run.left() == []
    assert_nothing_lost(output)


def restart_the_operator(run: Run, cluster: Cluster) -> None:
    """The run does not notice, and the new operator goes on where the old one was."""
    before = run.status()
    cluster.kubectl("delete", "pod", "-n", "medsd-system", "-l", "app.kubernetes.io/component=operator")
    cluster.kubectl("rollout", "status", "-n", "medsd-system", "deployment/medsd-operator", "--timeout=600s")
    run.wait("news after the operator's restart", lambda _: run.step() > before["progress"]["step"] + 1)
    after = run.status()
    assert after["attempt"] == before["attempt"] and after["failures"] == before["failures"]
    assert after["phase"] == "Running" and len(run.parts("rayjobs")) == 1


def lose_a_worker(run: Run, cluster: Cluster, output: Storage) -> None:
    """Ray Train goes on from the newest checkpoint, within the attempt."""
    attempt, worker = run.status()["attempt"], run.pods("worker")[0]["metadata"]["name"]
    at = told_checkpoint(run, output)
    with cluster.history("finetunes", run.name, run.namespace) as states:
        cluster.kubectl("delete", "pod", worker, "-n", run.namespace, "--grace-period=0", "--force")
        wait_for(
            "another worker", lambda: worker not in names(run.pods("worker")) and len(run.pods("worker")) == 2
        )
        run.wait("steps after the worker's loss", lambda _: newest(output) > at + EVERY)
    assert lowest_step(states) >= at
    status = run.status()
    assert (
        status["attempt"] == attempt
        and status["failures"]["infrastructure"] == 0
        and status["phase"] == "Running"
    )


def suspend_and_resume(run: Run, cluster: Cluster, output: Storage) -> None:
    """A checkpoint first, then all pods go; it goes on at that step."""
    patch = ("patch", "finetune", run.name, "-n", run.namespace, "--type=merge", "-p")
    cluster.kubectl(*patch, json.dumps({"spec": {"suspend": True}}))
    run.wait_for_phase("Suspended")
    assert not run.parts("pods") and not run.parts("rayclusters")
    stopped = newest(output)
    assert records(output)[-1]["step"] == stopped, "it stopped with a checkpoint of its last step"
    assert output.exists("logs/attempt-01/driver.log")
    assert run.condition("Suspended")["status"] == "True"
    cluster.kubectl(*patch, json.dumps({"spec": {"suspend": False}}))
    run.wait(
        "steps of the second attempt",
        lambda status: status["attempt"]["number"] == 2 and records(output)[-1]["step"] > stopped,
    )
    assert [r["step"] for r in records(output)] == list(range(1, records(output)[-1]["step"] + 1))
    assert run.status()["failures"] == {"infrastructure": 0, "application": 0}
    assert run.condition("Suspended").get("status", "False") == "False"


def lose_the_head(run: Run, cluster: Cluster, output: Storage) -> None:
    """The job is lost with it: medsd starts another attempt from the newest checkpoint."""
    at = told_checkpoint(run, output)
    head = run.pods("head")[0]["metadata"]["name"]
    with cluster.history("finetunes", run.name, run.namespace) as states:
        cluster.kubectl("delete", "pod", head, "-n", run.namespace, "--grace-period=0", "--force")
        run.wait("the third attempt", lambda status: status["attempt"]["number"] == 3)
        run.wait(
            "its first checkpoint",
            lambda status: status["phase"] == "Running" and newest(output) > at + EVERY,
        )
    assert lowest_step(states) >= at
    assert run.status()["failures"] == {"infrastructure": 1, "application": 0}
    assert names(run.parts("rayjobs")) == ["long-3"]
    head = run.pods("head")[0]["metadata"]["name"]
    wait_for(
        "the driver's lines in the head's log",
        lambda: " loss " in cluster.kubectl("logs", head, "-n", run.namespace).stdout,
    )


def assert_nothing_lost(output: Storage) -> None:
    """Each step is there once, at its place in the data: what was trained after a checkpoint was trained
    again.
    """
    found = records(output)
    assert [r["step"] for r in found] == list(range(1, len(found) + 1))
    assert [r["position"] for r in found] == [BATCH * r["step"] for r in found]
    assert saved_steps(output)[0][-1] > found[-1]["step"] - 2 * EVERY


def newest(output: Storage) -> int:
    """The step of the newest complete checkpoint."""
    return max(saved_steps(output)[0], default=0)


def records(output: Storage) -> list[dict]:
    lines = [json.loads(line) for line in output.read("metrics.jsonl").splitlines()]
    return [line for line in lines if "loss" in line]


def told_checkpoint(run: Run, output: Storage) -> int:
    """The newest checkpoint's step, once the status has come as far: no later status may be behind it."""
    at = newest(output)
    run.wait("news of a checkpoint", lambda _: run.step() >= at)
    return at


def lowest_step(states: list[dict]) -> int:
    """Of a run's progress as it was told: where an attempt began."""
    seen = [(state.get("status", {}).get("progress") or {}).get("step") for state in states]
    return min(step for step in seen if step is not None)


def names(objects: list[dict]) -> list[str]:
    return [found["metadata"]["name"] for found in objects]
