"""The operator's process ends before any one of its effects: its successor makes nothing twice and loses
nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from operator_world import World, finetune

from medsd_ray.driver.protocol import DriverAnswer


def succeeds(world: World) -> None:
    world.settle()
    world.start()
    world.succeed()
    world.wait(10)


def retries(world: World) -> None:
    world.settle()
    world.start()
    world.fail(143)
    world.wait(10)
    world.start()
    world.lose(world.head())
    world.settle()
    world.wait(20)
    world.start()
    world.succeed()


def fails(world: World) -> None:
    world.settle()
    world.start()
    world.fail(1, "medsd: training failed: boom\n")


def is_suspended_and_resumed(world: World) -> None:
    world.settle()
    world.start()
    world.suspend()
    world.driver = DriverAnswer(stage="done", state="interrupted", checkpoint_step=8)
    world.wait(2)
    world.driver = None
    world.suspend(False)
    world.start()
    world.succeed()


def does_not_start(world: World) -> None:
    world.settle()
    world.cluster()
    world.wait(60)


def is_queued(world: World) -> None:
    world.object["spec"]["queue"] = "research"
    world.settle()
    world.current["spec"]["suspend"] = False
    world.settle()
    world.start()
    world.succeed()


STORIES = [succeeds, retries, fails, is_suspended_and_resumed, does_not_start, is_queued]
SPEC = {"startDeadlineSeconds": 60, "retries": {"backoffSeconds": 10}}


def told(world: World) -> tuple:
    status = world.status
    conditions = {(c.type, c.status, c.reason, c.message) for c in status.conditions}
    return (
        status.phase,
        status.message,
        status.attempt,
        status.failures,
        status.activeSeconds,
        conditions,
        world.made,
    )


@pytest.mark.parametrize("story", STORIES)
def test_the_end_is_the_same_wherever_the_operator_ends(story: Callable[[World], None]):
    calm = World(finetune(**SPEC))
    story(calm)
    assert calm.effects > 2
    for at in range(calm.effects):
        world = World(finetune(**SPEC), crash_at=at)
        story(world)
        assert told(world) == told(calm), f"after a crash before effect {at}"
        assert set(world.rayjobs) == set(calm.rayjobs) and len(world.pods) == len(calm.pods)


def test_an_attempt_that_was_made_while_nobody_saw_is_found():
    """The RayJob was made, ran and ended before the operator came back."""
    world = World(finetune())
    world.settle()
    world.start()
    world.object["status"] = world.object["status"] | {
        "phase": "Starting",
        "attempt": {"number": 1, "rayJob": "x-1"},
    }
    world.current["status"] |= {"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"}
    assert world.settle() == "Succeeded" and world.made == ["x-1"] and world.status.attempt.uid == "uid-x-1"


def test_rayjobs_of_earlier_attempts_are_deleted():
    world = World(finetune(retries={"backoffSeconds": 1}))
    world.settle()
    world.start()
    left = world.current
    world.fail(143)
    world.wait(1)
    assert world.status.attempt.number == 2
    world.rayjobs["x-1"] = left | {
        "metadata": {k: v for k, v in left["metadata"].items() if k != "deletionTimestamp"}
    }
    world.settle()
    assert set(world.rayjobs) == {"x-2"}


def test_a_spec_that_changes_before_the_rayjob_is_made_is_what_runs():
    world = World(finetune(), crash_at=1)  # the attempt is on record, its RayJob is not made
    try:
        world.turn()
    except Exception:
        world.object["spec"]["pool"] = "a100"
    assert world.settle() == "Starting" and world.made == ["x-1"]
    assert world.current["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["groupName"] == "a100"
