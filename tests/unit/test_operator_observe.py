"""What pods as Kubernetes reports them mean, in words."""

from __future__ import annotations

from typing import Any

import pytest
from operator_world import World, finetune, make_ready, terminated, unschedulable

from medsd_ray.operator.lifecycle.failures import (
    failure_of,
    head_loss,
    last_words,
    library_error,
    losses,
    why_dead,
)
from medsd_ray.operator.lifecycle.pods import group_of
from medsd_ray.operator.lifecycle.wait_reasons import wait_reason, workers_to_give_up


@pytest.fixture
def world() -> World:
    """Two workers and a head that no node has taken yet."""
    world = World(finetune())
    world.settle()
    world.cluster()
    return world


def waits(world: World, events: list[dict[str, Any]] | None = None):
    return wait_reason(world.current, world.pods, events or [])


def in_trouble(pod: dict[str, Any], reason: str, message: str, kind: str = "containerStatuses") -> None:
    pod["spec"]["nodeName"] = "node-1"
    pod["status"] = {
        "phase": "Pending",
        kind: [{"name": "ray", "state": {"waiting": {"reason": reason, "message": message}}}],
    }


@pytest.mark.parametrize(
    ("reason", "message", "found", "words"),
    [
        (
            "ErrImagePull",
            "failed to pull image x:1: no such host",
            "ImagePullFailed",
            "image pull failed: failed to pull image x:1",
        ),
        (
            "ImagePullBackOff",
            'Back-off pulling image "x:1"',
            "ImagePullFailed",
            'image pull failed: Back-off pulling image "x:1"',
        ),
        ("InvalidImageName", "", "ImagePullFailed", "image pull failed: InvalidImageName"),
        (
            "CreateContainerConfigError",
            "couldn't find key AWS_SECRET_ACCESS_KEY in Secret lab/s3-credentials",
            "ContainerNotMade",
            "secret s3-credentials has no key AWS_SECRET_ACCESS_KEY",
        ),
        (
            "CreateContainerConfigError",
            'secret "s3-credentials" not found',
            "ContainerNotMade",
            "there is no secret s3-credentials in namespace lab",
        ),
        (
            "CreateContainerConfigError",
            "container has runAsNonRoot and image will run as root",
            "ContainerNotMade",
            "runAsNonRoot",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["containerStatuses", "initContainerStatuses"])
def test_containers_that_do_not_come_up(
    world: World, reason: str, message: str, found: str, words: str, kind: str
):
    in_trouble(world.pods[1], reason, message, kind)
    what = waits(world)
    assert what.reason == found and words in what.message


def test_a_container_that_ends_again_and_again(world: World):
    in_trouble(world.pods[1], "CrashLoopBackOff", "back-off 40s")
    ended = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    world.pods[1]["status"]["containerStatuses"][0]["lastState"] = ended
    assert "OOMKilled (exit code 137)" in waits(world).message


def test_pods_without_a_node(world: World):
    make_ready(world.pods[0])
    make_ready(world.pods[1])
    unschedulable(world.pods[2], "0/1 nodes are available: 1 Insufficient cpu.")
    words = (
        "waiting for 1 pod in pool cpu: 1 of 2 workers placed (0/1 nodes are available: 1 Insufficient cpu.)"
    )
    assert waits(world).message == words
    unschedulable(world.pods[0], "0/1 nodes are available")
    assert waits(world).message == "waiting for a node for the head pod (0/1 nodes are available)"


def test_a_volume_that_cannot_be_mounted(world: World):
    pod = world.pods[0]
    pod["spec"]["nodeName"] = "node-1"
    events = [
        {
            "time": "2026-01-01T00:00:01Z",
            "reason": "FailedMount",
            "message": 'configmap "x-1" not found',
            "object": pod["metadata"]["name"],
        },
        {
            "time": "2026-01-01T00:00:02Z",
            "reason": "Pulling",
            "message": "",
            "object": pod["metadata"]["name"],
        },
    ]
    assert 'configmap "x-1" not found' in waits(world, events).message
    make_ready(pod)
    assert "FailedMount" not in waits(world, events).reason


def test_a_quota_that_leaves_no_room_for_pods(world: World):
    failure = {
        "type": "ReplicaFailure",
        "status": "True",
        "message": 'pods "x" is forbidden: exceeded quota: gpus',
    }
    world.current["status"]["rayClusterStatus"] = {"conditions": [failure]}
    world.pods.clear()
    assert waits(world).reason == "PodsNotMade" and "exceeded quota: gpus" in waits(world).message


def test_an_ordinary_start_in_words(world: World):
    assert waits(world).message == "pods are starting: head not ready yet, 0 of 2 workers ready"
    world.ready("head", "worker-0")
    assert waits(world).message == "pods are starting: head ready, 1 of 2 workers ready"
    world.ready()
    world.current["status"]["jobDeploymentStatus"] = "Running"
    assert waits(world).reason == "JobSubmitted"
    world.current["status"] = {}
    assert waits(world).reason == "WaitingForKubeRay"


def test_an_elastic_run_gives_up_only_pods_that_no_node_takes():
    world = World(finetune(run={"resources": {"num_workers": 1, "max_workers": 3}}))
    world.settle()
    world.cluster()
    group = group_of(world.current)
    assert workers_to_give_up(group, world.pods) is None, "nothing is known of the pods yet"
    unschedulable(world.pods[3])
    world.ready("head", "worker-0")
    assert workers_to_give_up(group, world.pods) is None, "one may yet come"
    world.ready("worker-1")
    assert workers_to_give_up(group, world.pods) == ["x-1-abcde-cpu-worker-2"]
    unschedulable(world.pods[0])
    assert workers_to_give_up(group, world.pods) is None, "without a head nothing starts"


# --- deaths


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
            "Evicted: The node was low",
        ),
        ({"phase": "Failed", "containerStatuses": terminated("OOMKilled", 137)}, "OOMKilled (exit code 137)"),
        ({"phase": "Failed", "containerStatuses": terminated("Error", 1)}, "Error (exit code 1)"),
        ({"phase": "Succeeded", "containerStatuses": terminated("Completed", 0)}, ""),
        (
            {
                "phase": "Failed",
                "containerStatuses": terminated("Error", 137),
                "conditions": [
                    {
                        "type": "DisruptionTarget",
                        "status": "True",
                        "reason": "DeletionByTaintManager",
                        "message": "Taint manager: deleting due to NoExecute taint",
                    }
                ],
            },
            "DeletionByTaintManager: Taint manager: deleting due to NoExecute taint",
        ),
        (
            {
                "phase": "Running",
                "containerStatuses": [
                    {
                        "name": "ray",
                        "restartCount": 1,
                        "state": {"running": {}},
                        "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
                    }
                ],
            },
            "OOMKilled (exit code 137)",
        ),
        (
            {
                "phase": "Running",
                "containerStatuses": [{"name": "ray", "restartCount": 0, "state": {"running": {}}}],
            },
            "",
        ),
    ],
)
def test_why_a_pod_ended(world: World, status: dict[str, Any], words: str):
    pod = world.pods[1]
    pod["status"] = status
    assert why_dead(pod).startswith(words) if words else why_dead(pod) == ""


@pytest.mark.parametrize(
    ("reason", "code", "at", "words"),
    [
        ("Error", 143, "2026-01-01T00:00:05Z", "deleted"),
        ("Error", 143, "2026-01-01T00:00:00Z", "deleted"),
        ("Error", 1, "2026-01-01T00:00:00Z", "Error (exit code 1)"),
        ("Error", 1, "2025-12-31T23:59:00Z", "Error (exit code 1)"),
        ("OOMKilled", 137, "2026-01-01T00:00:05Z", "OOMKilled (exit code 137)"),
    ],
)
def test_a_deleted_pod_ends_by_its_deletion_or_before_it(
    world: World, reason: str, code: int, at: str, words: str
):
    pod = world.pods[1]
    pod["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30}
    pod["status"] = {"phase": "Failed", "containerStatuses": terminated(reason, code, at)}
    assert why_dead(pod) == words


def test_a_head_is_lost_when_it_ends_restarts_is_deleted_or_replaced(world: World):
    world.ready()
    head = world.pods[0]
    uid = head["metadata"]["uid"]
    assert head_loss(uid, world.pods, []) is None and head_loss(None, [], []) is None
    head["status"]["containerStatuses"][0]["restartCount"] = 1
    head["status"]["containerStatuses"][0]["lastState"] = {"terminated": {"reason": "Error", "exitCode": 139}}
    assert "Error (exit code 139)" in str(head_loss(uid, world.pods, []))
    make_ready(head)
    head["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:30Z"
    assert "deleted" in str(head_loss(uid, world.pods, []))
    del head["metadata"]["deletionTimestamp"]
    assert "deleted" in str(head_loss(uid, world.pods[1:], [head]))
    other = {**head, "metadata": {**head["metadata"], "uid": "another", "name": "x-1-abcde-head-2"}}
    assert "x-1-abcde-head-2 is in its place" in str(head_loss(uid, [other], []))
    assert head_loss(uid, [], []) == "the head pod was lost: it is gone"


def test_all_that_is_known_of_a_failure_is_said_at_once(world: World):
    log = (
        "step 3/20 loss 0.5\n"
        "node2: [rank1] torch.distributed.DistBackendError: NCCL error in: NCCLUtils.hpp:268, "
        "remote process exited\n"
        "medsd: warning about something\n"
        "medsd: training failed: a worker was lost\n"
    )
    message = (
        "Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 chars):\n"
        f"{log}"
    )
    rayjob = {
        "status": {
            "jobStatus": "FAILED",
            "jobDeploymentStatus": "Failed",
            "reason": "AppFailed",
            "message": message,
        }
    }
    worker = world.pods[1]
    worker["status"] = {"phase": "Failed", "containerStatuses": terminated("OOMKilled", 137)}
    failure = failure_of(rayjob, world.pods, [], None)
    assert (failure.kind, failure.reason) == ("application", "RunFailed")
    parts = failure.message.split("; ")
    assert parts[0] == "medsd: training failed: a worker was lost" and "NCCL error" in parts[1]
    assert parts[2] == f"{worker['metadata']['name']}: OOMKilled (exit code 137)"
    told = failure_of(rayjob, [], [], "medsd: training failed: said by the driver itself")
    assert told.message.startswith("medsd: training failed: said by the driver itself")


def test_words_in_logs():
    assert last_words("a\nmedsd: one\nb\nmedsd: two \nc") == "medsd: two" and last_words("no words") is None
    assert library_error("x\nncclSystemError: System call failed\ny") == "ncclSystemError: System call failed"
    assert library_error("all is well") is None


def test_losses_name_the_pod(world: World):
    world.pods[1]["status"] = {
        "phase": "Failed",
        "reason": "Evicted",
        "message": "The node was low on memory",
    }
    assert losses(world.pods) == ["x-1-abcde-cpu-worker-0: Evicted: The node was low on memory"]
