from __future__ import annotations

import time
from typing import Any

from operator_world import World, finetune

from medsd_ray.operator.controller.index import Index, Key
from medsd_ray.operator.controller.queue import Queue
from medsd_ray.operator.controller.sweep import Sweep

KEY = Key("FineTune", "lab", "x")


def seen(version: str = "1") -> tuple[Index, World]:
    """An index that was told of an object, its RayJob and its pods."""
    world, index = World(finetune()), Index()
    world.settle()
    world.start()
    made = dict(world.object or {})
    made["metadata"] = made["metadata"] | {"resourceVersion": version}
    index.see_object(made, deleted=False)
    assert index.see_rayjob(world.current, deleted=False) == KEY
    for pod in world.pods:
        assert index.see_pod(pod, deleted=False) == KEY
    return index, world


def happening(pod: dict[str, Any], reason: str = "FailedMount") -> dict[str, Any]:
    meta = pod["metadata"]
    about = {"kind": "Pod", "namespace": meta["namespace"], "name": meta["name"]}
    return {
        "metadata": {"name": f"{meta['name']}.1"},
        "involvedObject": about,
        "reason": reason,
        "message": "m",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }


def test_what_is_seen_is_kept_without_what_is_not_read():
    index, _ = seen()
    (job,) = index.rayjobs(KEY).values()
    assert (
        job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == 2
        and "entrypoint" not in job["spec"]
    )
    assert len(index.pods(KEY)) == 3 and "containers" not in index.pods(KEY)[0]["spec"]
    assert list(index.phases()) == [("FineTune", "Running")]
    assert (
        index.see_rayjob({"metadata": {"name": "other", "namespace": "lab", "labels": {}}}, deleted=False)
        is None
    )


def test_a_pod_that_is_gone_is_remembered_as_it_was():
    index, world = seen()
    pod = world.pods[1]
    pod["status"] = {"phase": "Failed", "reason": "Evicted"}
    index.see_pod(pod, deleted=True)
    assert len(index.pods(KEY)) == 2 and index.deleted_pods(KEY)[0]["status"]["reason"] == "Evicted"


def test_events_of_pods_even_those_that_come_before_their_pod():
    index, world = seen()
    assert index.see_event(happening(world.pods[0])) == KEY
    index.see_event(happening(world.pods[0]))
    late = {**world.pods[0], "metadata": {**world.pods[0]["metadata"], "name": "x-1-late", "uid": "late"}}
    assert index.see_event(happening(late, "Scheduled")) is None
    index.see_pod(late, deleted=False)
    assert [event["reason"] for event in index.events(KEY)] == ["FailedMount", "Scheduled"]
    assert index.events(KEY)[0] == {
        "time": "2026-01-01T00:00:00Z",
        "reason": "FailedMount",
        "message": "m",
        "object": world.pods[0]["metadata"]["name"],
    }


def test_nothing_is_kept_of_an_object_that_is_gone():
    index, world = seen()
    made = dict(world.object or {})
    index.see_object(made, deleted=True)
    index.see_rayjob(world.current, deleted=True)
    for pod in world.pods:
        index.see_pod(pod, deleted=True)
    assert not index.objects and not index._owned and not index._pod_owner


def test_a_new_runtime_concerns_the_objects_that_name_it():
    index, world = seen()
    assert (
        index.see_runtime({"metadata": {"name": "default"}}, deleted=False) == []
    )  # of no object: the field has a default
    world.object["spec"]["runtime"] = "big"
    world.object["metadata"]["resourceVersion"] = "2"
    index.see_object(world.object, deleted=False)
    assert index.see_runtime({"metadata": {"name": "big"}}, deleted=False) == [KEY]


def test_a_list_drops_what_a_cut_off_watch_did_not_tell():
    index, world = seen()
    later = time.monotonic() + 1
    kept = {world.pods[0]["metadata"]["uid"]}
    assert index.drop_missing_pods(kept, later) == {KEY} and len(index.pods(KEY)) == 1
    assert index.drop_missing_rayjobs(set(), later) == {KEY} and not index.rayjobs(KEY)
    assert index.drop_missing_pods(set(), time.monotonic() - 60) == set(), "seen after the list was made"
    index.drop_missing_objects(set(), later)
    assert not index.objects


def test_a_watch_that_tells_nothing_shows_after_two_sweeps():
    index, _ = seen(version="5")
    queue: Queue[Key] = Queue()
    sweep = Sweep(None, index, queue, [None])  # type: ignore[arg-type]
    sweep._compare({KEY: {"resourceVersion": "5"}})
    assert not sweep.silent and not queue.waiting()
    sweep._compare({KEY: {"resourceVersion": "7"}})
    assert not sweep.silent and queue.waiting(), "a little behind: looked at at once"
    index.objects[KEY] = index.objects[KEY]._replace(resource_version="7")
    sweep._compare({KEY: {"resourceVersion": "9"}})
    assert not sweep.silent, "it has moved since"
    sweep._compare({KEY: {"resourceVersion": "11"}})
    assert sweep.silent == [KEY]
    index.objects[KEY] = index.objects[KEY]._replace(resource_version="11")
    sweep._compare({KEY: {"resourceVersion": "11"}})
    assert not sweep.silent


def test_an_output_is_held_by_who_came_first_or_has_begun():
    def tell(name: str, created: int, output: str = "s3://bucket/x", **status: Any) -> Key:
        meta = {"name": name, "namespace": "lab", "uid": f"uid-{name}", "resourceVersion": "1"}
        meta["creationTimestamp"] = f"2026-01-01T00:00:0{created}Z"
        made = {"kind": "FineTune", "metadata": meta, "spec": {"run": {"output": output}}, "status": status}
        return index.see_object(made, deleted=False)

    index = Index()
    first, second = tell("first", 1), tell("second", 2, "s3://bucket/x/")
    tell("other", 0, "s3://bucket/y")
    assert (
        index.output_writer(first, "s3://bucket/x") is None
        and index.output_writer(second, "s3://bucket/x") == first
    )
    tell("second", 2, phase="Running", attempt={"number": 1})
    assert index.output_writer(first, "s3://bucket/x") == second, "it has begun"
    tell("second", 2, phase="Succeeded", attempt={"number": 1})
    assert index.output_writer(first, "s3://bucket/x") is None
    made = {
        "kind": "Study",
        "metadata": {"name": "s", "namespace": "lab", "uid": "u", "resourceVersion": "1"},
    }
    for same in ("s3://bucket//x", "s3://bucket/./x", "s3://bucket/x/"):
        other = tell("other", 5, same)
        assert index.output_writer(other, "s3://bucket/x") == first, same
        assert index.output_writer(first, same) is None
    study = index.see_object(made | {"spec": {"study": {"output": "s3://bucket/x"}}}, deleted=False)
    assert index.output_writer(first, "s3://bucket/x") == study
