"""A researcher's FineTune from `kubectl apply` to its report: two worker pods, ZeRO-2, S3; and all that is
said on the way.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from cluster.kube import Cluster, Object, Run, wait_for

from medsd_ray.runs.checkpoints import saved_steps
from medsd_ray.storage import open_storage

STEPS, EVERY = 20, 5
PROMPTS = ["large left pleural effusion", "no acute cardiopulmonary abnormality"]


def test_from_apply_to_the_report(start: Callable[..., Run], cluster: Cluster, data, notes: dict[str, str]):
    report = {"real": data.shards, "prompts": PROMPTS, "numImages": 8, "steps": 4, "guidanceScale": 1.0}
    training = {"max_steps": STEPS, "global_batch_size": 128, "micro_batch_size": 2}
    began = time.monotonic()
    with cluster.history("finetunes", "first", "research") as states:
        run = start("first", training=training, checkpoint={"every_steps": EVERY}, spec={"report": report})
        run.wait("its first step", lambda _: run.step() >= 1)
        columns = cluster.kubectl("get", "finetunes", "-n", "research").stdout.splitlines()
        assert_made_of_two_workers(run)
        run.wait_for_phase("Succeeded")
    took = time.monotonic() - began
    notes["first"] = (
        f"A FineTune of two workers took {took:.0f} s from apply to its report (goal: 360 s on 2 idle cores)."
    )

    statuses = [state["status"] for state in states if state.get("status")]
    assert_told_on_the_way(statuses)
    assert_told_at_the_end(statuses[-1], f"{data.root}/runs/first")
    assert columns[0].split()[:8] == ["NAME", "PHASE", "STAGE", "STEP", "TOTAL", "LOSS", "IMAGES/S", "LEFT"]
    assert columns[1].split()[:3] == ["first", "Running", "train"] and columns[1].split()[4] == str(STEPS)
    assert_events_in_words(run)
    assert_in_s3(f"{data.root}/runs/first")
    wait_for("its pods to go", lambda: not run.parts("pods") and not run.parts("rayclusters"), 60, run.left)


def test_a_segmenter_from_apply_to_the_report(start: Callable[..., Run], data):
    """A task run is the same object: two workers, exact resume, its own figures in the report."""
    network = {"library": "monai", "name": "UNet", "arguments": {"channels": [8, 16], "strides": [2]}}
    run = start(
        "lungs",
        components=None,
        model="medsd-small",
        segmenter={"mask": "effusion", "missing": "background", "network": network},
        data={"train": data.shards},
        training={"max_steps": STEPS, "global_batch_size": 16, "sample_every": STEPS},
        spec={"report": {"real": data.shards}},
    )
    run.wait_for_phase("Succeeded")
    store = open_storage(f"{data.root}/runs/lungs")
    assert store.read_json("result.json")["world_size"] == 2
    assert saved_steps(store)[0][-1] == STEPS and store.child(f"samples/step-{STEPS:08d}").list()
    report = store.child("report")
    assert report.complete() and "dice" in json.dumps(report.read_json("report.json"))


def assert_made_of_two_workers(run: Run) -> None:
    assert [len(run.pods(node_type)) for node_type in ("head", "worker")] == [1, 2]
    assert [job["metadata"]["name"] for job in run.parts("rayjobs")] == ["first-1"]
    for pod in run.parts("pods"):
        spec, container = pod["spec"], pod["spec"]["containers"][0]
        assert spec["securityContext"]["runAsNonRoot"] and spec["serviceAccountName"] == "medsd-worker"
        assert not any("token" in str(volume.get("projected", "")) for volume in spec["volumes"])
        keys = [e for e in container["env"] if e["name"] == "AWS_SECRET_ACCESS_KEY"]
        assert keys == [
            {
                "name": keys[0]["name"],
                "valueFrom": {"secretKeyRef": {"name": "s3-credentials", "key": keys[0]["name"]}},
            }
        ]


def assert_told_on_the_way(statuses: list[Object]) -> None:
    phases = list(dict.fromkeys(status["phase"] for status in statuses if "phase" in status))
    assert [phase for phase in phases if phase != "Pending"] == ["Starting", "Running", "Succeeded"]
    seen = [status["progress"] for status in statuses if status.get("progress")]
    stages = list(dict.fromkeys(progress["stage"] for progress in seen if progress.get("stage")))
    assert stages[:3] == ["train", "generate", "evaluate"]
    steps = [progress["step"] for progress in seen if progress.get("step")]
    assert steps == sorted(steps) and steps[-1] == STEPS and len(set(steps)) > 2
    training = [progress for progress in seen if progress["stage"] == "train" and progress.get("loss")]
    for progress in training:
        assert (
            progress["totalSteps"] == STEPS and progress["imagesPerSecond"] > 0 and progress["lastUpdateTime"]
        )
        assert progress["etaSeconds"] >= 0 and progress["timeLeft"]
    checkpoints = [progress["lastCheckpointStep"] for progress in seen if progress.get("lastCheckpointStep")]
    assert checkpoints[-1] == STEPS and set(checkpoints) <= set(range(EVERY, STEPS + 1, EVERY))
    assert any((status.get("addresses") or {}).get("dashboard") for status in statuses)


def assert_told_at_the_end(status: Object, output: str) -> None:
    attempt, addresses = status["attempt"], status["addresses"]
    assert attempt["number"] == 1 and attempt["rayJob"] == "first-1"
    assert attempt["uid"] and attempt["headPodUID"] and attempt["startTime"] <= attempt["runningTime"]
    assert status["failures"] == {"infrastructure": 0, "application": 0}
    assert addresses["output"] == output and addresses["report"] == f"{output}/report/report.html"
    assert addresses["logs"].rstrip("/") == f"{output}/logs" and "dashboard" not in addresses
    assert (
        status["startTime"] <= status["completionTime"]
        and status["observedGeneration"] == 1
        and status["message"]
    )
    conditions = {condition["type"]: condition for condition in status["conditions"]}
    for type in ("Accepted", "Scheduled", "Complete"):
        assert conditions[type]["status"] == "True", conditions
    for condition in conditions.values():
        assert condition["reason"] and condition["message"] and condition["lastTransitionTime"]
    assert conditions.get("Failed", {"status": "False"})["status"] == "False"


def assert_events_in_words(run: Run) -> None:
    events = run.events()
    reasons = [event["reason"] for event in events]
    assert {"Starting", "Running", "Succeeded"} <= set(reasons), events
    assert len(reasons) == len(set(reasons)), "an event is told once"
    assert all(len(event["message"]) > 10 and event["type"] == "Normal" for event in events), events


def assert_in_s3(output: str) -> None:
    store = open_storage(output)
    complete, incomplete = saved_steps(store)
    assert complete[-1] == STEPS and not incomplete
    assert [
        json.loads(line)["step"] for line in store.read("metrics.jsonl").splitlines() if b'"loss"' in line
    ] == list(range(1, STEPS + 1))
    assert store.child("images").complete() and store.child("images-base").complete()
    report = store.child("report")
    assert report.complete() and b"<html" in report.read("report.html")
    assert report.read_json("report.json")["counts"]["generated"] == 8
    logs = store.child("logs/attempt-01")
    assert f"step {STEPS}/{STEPS}" in logs.read("driver.log").decode()
    assert len([key for key in logs.list() if key not in ("driver.log", "events.json")]) >= 2, logs.list()
    assert isinstance(json.loads(logs.read("events.json")), list)
