"""What goes wrong by a user's or a platform team's hand is said in words, within 30 s where the cluster knows
it by then.
"""

from __future__ import annotations

from collections.abc import Callable

import yaml
from cluster.kube import Cluster, Object, Run, wait_for
from cluster.runs import finetune

KNOWN_S = 30
"""Seconds in which a wait must have its reason in words."""


def waits_in_words(run: Run, *words: str) -> None:
    """The phase stays Starting, and the Scheduled condition and the message say all these words."""

    def said(status: Object) -> bool:
        condition = next(
            (c for c in status.get("conditions", []) if c["type"] == "Scheduled"), {"status": "True"}
        )
        told = condition["status"] == "False" and condition["reason"] and condition["message"]
        return bool(told) and all(word in told and word in status["message"] for word in words)

    run.wait(
        f"words on its wait: {words}",
        lambda status: status.get("phase") == "Starting" and said(status),
        KNOWN_S,
    )


def test_a_wrong_field_is_refused_by_the_api_server(cluster: Cluster, installed: None, data):
    values = finetune("wrong", data, {}, {})
    values["spec"]["run"]["training"]["learning_rat"] = 1e-4
    refused = cluster.kubectl(
        "apply", "--validate=strict", "-f", "-", input=yaml.safe_dump(values), check=False
    )
    assert refused.returncode and "learning_rat" in refused.stderr
    assert cluster.get("finetunes", "wrong", "research") is None


def test_data_that_is_not_there_fails_once_and_is_not_tried_again(start: Callable[..., Run], data):
    run = start(
        "no-data",
        training={},
        data={"train": f"{data.root}/nothing-here"},
        spec={"retries": {"application": 3}},
    )
    run.wait_for_phase("Failed")
    status, failed = run.status(), run.condition("Failed")
    assert failed["status"] == "True" and failed["reason"] == "BadInput"
    assert (
        "nothing-here" in failed["message"]
        and "medsd: " in failed["message"]
        and "Traceback" not in failed["message"]
    )
    assert status["attempt"]["number"] == 1 and len(run.parts("rayjobs")) <= 1
    assert failed["message"] in status["message"] or status["message"] in failed["message"]
    assert any(event["type"] == "Warning" and "nothing-here" in event["message"] for event in run.events())


def test_a_pool_without_a_node(start: Callable[..., Run]):
    run = start("no-node", training={}, spec={"pool": "elsewhere"})
    waits_in_words(run, "waiting for 2", "elsewhere", "0 of 2", "0/1 nodes are available")


def test_a_secret_without_a_key(start: Callable[..., Run], runtime, cluster: Cluster):
    meta = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "half", "namespace": "research"}}
    cluster.apply({**meta, "stringData": {"AWS_ACCESS_KEY_ID": "x"}})
    name = runtime("half-secret", {"s3": {"endpoint": "http://s3.s3.svc:7070", "secretName": "half"}})
    run = start("no-key", training={}, spec={"runtime": name})
    waits_in_words(run, "secret half has no key AWS_SECRET_ACCESS_KEY")


def test_no_secret(start: Callable[..., Run], runtime):
    name = runtime("no-secret", {"s3": {"endpoint": "http://s3.s3.svc:7070", "secretName": "nowhere"}})
    waits_in_words(start("no-secret", training={}, spec={"runtime": name}), "no secret nowhere")


def test_an_image_that_is_not_there(start: Callable[..., Run], runtime):
    name = runtime("no-image", {"image": "registry.invalid/medsd:1", "imagePullPolicy": "Always"})
    run = start("no-image", training={}, spec={"runtime": name, "startDeadlineSeconds": 45})
    waits_in_words(run, "image pull failed", "registry.invalid/medsd:1")
    run.wait_for_phase("Failed")  # at its start deadline, with the same words
    assert "registry.invalid" in run.condition("Failed")["message"]
    wait_for("its pods to go", lambda: not run.parts("pods"), said=run.left)


def test_a_quota_without_room(start: Callable[..., Run], cluster: Cluster):
    meta = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "tight", "namespace": "research"},
    }
    cluster.apply({**meta, "spec": {"hard": {"requests.memory": "1Mi"}}})
    try:
        waits_in_words(start("no-room", training={}), "exceeded quota: tight")
    finally:
        cluster.kubectl("delete", "resourcequota", "tight", "-n", "research")


def test_a_runtime_that_is_not_there(start: Callable[..., Run]):
    run = start("no-runtime", training={}, spec={"runtime": "missing"})
    run.wait("words on the runtime", lambda status: "missing" in status.get("message", ""), KNOWN_S)
    assert run.condition("Accepted")["status"] == "False" and not run.parts("rayjobs")
