"""Suspend and resume, queues, and progress that stands still."""

from __future__ import annotations

from datetime import timedelta

import pytest
from operator_world import World, finetune

from medsd_ray.driver.protocol import DriverAnswer
from medsd_ray.operator.lifecycle.active_phases import wants_stop
from medsd_ray.operator.subject import read_subject


def running(**spec) -> World:
    world = World(finetune(**spec))
    world.settle()
    assert world.start() == "Running"
    return world


def test_suspend_waits_for_the_checkpoint_and_resume_is_another_attempt():
    world = running()
    world.wait(30)
    assert not wants_stop(read_subject(world.object))
    assert world.suspend() == "Suspending" and wants_stop(read_subject(world.object))
    assert world.rayjobs and world.pods and world.condition("Suspended").status == "False"
    world.driver = DriverAnswer(stage="train", state="running", step=7, total=20, lastUpdateTime=world.now)
    assert world.wait(60) == "Suspending" and world.rayjobs
    world.driver = DriverAnswer(stage="done", state="interrupted", exit_code=130, step=8, checkpoint_step=8)
    assert world.wait(2) == "Suspended"
    assert not world.rayjobs and not world.pods and "step 8" in world.status.message
    assert world.condition("Suspended").status == "True" and world.status.activeSeconds == 92
    assert world.wait(10**6) == "Suspended"
    world.driver = None
    assert (
        world.suspend(False) == "Starting"
        and world.made == ["x-1", "x-2"]
        and world.condition("Suspended") is None
    )
    assert world.start() == "Running"
    assert world.status.failures.infrastructure == world.status.failures.application == 0


def test_a_job_that_ended_with_130_after_the_stop_is_suspended():
    world = running()
    world.suspend()
    assert world.fail(130, "medsd: interrupted: after step 8\n") == "Suspended"
    assert world.status.failures.infrastructure == 0


def test_a_driver_that_saves_nothing_is_cut_off():
    world = running(stopGraceSeconds=30)
    world.suspend()
    assert world.wait(29) == "Suspending" and world.rayjobs
    assert world.wait(1) == "Suspended" and not world.pods


@pytest.mark.parametrize(
    ("code", "phase"), [(0, "Succeeded"), (2, "Failed"), (1, "Failed"), (137, "Suspended")]
)
def test_a_job_that_ends_by_itself_while_it_is_to_stop(code: int, phase: str):
    world = running()
    world.suspend()
    assert (world.fail(code) if code else world.succeed()) == phase


def test_a_head_that_is_lost_while_it_is_to_stop():
    world = running()
    world.suspend()
    world.lose(world.head())
    assert world.settle() == "Suspended" and world.status.failures.infrastructure == 0


def test_an_unsuspend_in_between_does_not_undo_the_stop():
    world = running()
    world.suspend()
    assert world.suspend(False) == "Suspending"
    world.driver = DriverAnswer(stage="done", state="interrupted")
    assert world.wait(2) == "Starting" and world.made == ["x-1", "x-2"]


def test_suspended_before_it_runs():
    made_suspended = World(finetune(suspend=True))
    assert made_suspended.settle() == "Suspended" and not made_suspended.made
    assert made_suspended.suspend(False) == "Starting" and made_suspended.made == ["x-1"]
    world = World(finetune())
    world.settle()
    world.cluster()
    assert world.suspend() == "Suspended" and not world.rayjobs and not world.pods


def test_suspended_between_two_attempts():
    world = running(retries={"backoffSeconds": 100})
    world.fail(143)
    assert world.suspend() == "Suspended" and world.wait(1000) == "Suspended"
    assert world.suspend(False) == "Starting" and world.made == ["x-1", "x-2"]


def test_the_run_may_change_while_it_is_suspended():
    world = running()
    world.suspend()
    world.fail(130)
    world.object["spec"]["run"] = world.object["spec"]["run"] | {"resources": {"num_workers": 3}}
    world.suspend(False)
    assert world.current["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == 3


def test_a_queue_admits_takes_back_and_admits_again():
    world = World(finetune(queue="research", startDeadlineSeconds=60))
    assert world.settle() == "Queued" and world.current["spec"]["suspend"] is True
    assert world.wait(10_000) == "Queued" and "queue research" in world.status.message
    world.current["spec"]["suspend"] = False
    assert world.settle() == "Starting" and world.start() == "Running"
    world.wait(50)
    world.current["spec"]["suspend"] = True
    world.lose(world.head())
    assert world.settle() == "Queued", "a head that went with the admission is not a failure"
    assert world.status.activeSeconds == 50 and world.status.attempt.headPodUID is None
    world.pods.clear()
    world.say(jobDeploymentStatus="Suspended", jobStatus="")
    world.current["spec"]["suspend"] = False
    assert world.settle() == "Queued"
    assert world.say(jobDeploymentStatus="") == "Starting"
    assert world.start() == "Running" and world.made == ["x-1"] and world.status.failures.infrastructure == 0


def test_a_queued_object_can_be_suspended():
    world = World(finetune(queue="research"))
    world.settle()
    assert world.suspend() == "Suspended" and not world.rayjobs


def test_progress_that_stands_still():
    world = running()
    world.driver = DriverAnswer(
        stage="train", step=5, total=20, images_per_second=60.0, lastUpdateTime=world.now
    )
    world.wait(5)
    assert world.condition("Stalled").status == "False"
    world.wait(290)
    assert world.condition("Stalled").status == "False"
    world.wait(10)
    stalled = world.condition("Stalled")
    assert (
        stalled.status == "True" and "at step 5" in stalled.message and world.events.count("NoProgress") == 1
    )
    world.driver = None
    world.wait(5)
    assert "the driver does not answer" in world.condition("Stalled").message
    world.driver = DriverAnswer(
        stage="train", step=6, total=20, images_per_second=60.0, lastUpdateTime=world.now
    )
    world.wait(5)
    assert world.condition("Stalled").status == "False"


def test_a_stop_is_no_standstill():
    world = running(stopGraceSeconds=1000)
    world.driver = DriverAnswer(stage="train", step=5, total=20, lastUpdateTime=world.now)
    world.suspend()
    assert (
        world.wait(500) == "Suspending"
        and world.condition("Stalled") is None
        and "NoProgress" not in world.events
    )


def test_slow_steps_are_no_standstill():
    world = running()
    world.driver = DriverAnswer(
        stage="train", step=5, total=20, images_per_second=1.0, lastUpdateTime=world.now
    )  # 60 s a step
    world.wait(20 * 60 - 1)
    assert world.condition("Stalled").status == "False"
    world.wait(2)
    assert world.condition("Stalled").status == "True"


def test_other_stages_write_no_progress():
    world = running()
    world.driver = DriverAnswer(stage="generate", step=20, total=20, lastUpdateTime=world.now)
    world.wait(1000)
    assert world.condition("Stalled") is None


def test_a_resumed_run_is_not_stalled_by_what_it_wrote_long_ago():
    world = running()
    old = world.now - timedelta(days=1)
    world.driver = DriverAnswer(stage="train", step=5, total=20, lastUpdateTime=old)
    world.wait(100)
    assert world.condition("Stalled").status == "False"


def test_a_checkpoint_that_was_not_saved_is_a_warning_until_one_is():
    world = running()
    lost = "the checkpoint of step 8 was not saved: S3 answers 503"
    world.driver = DriverAnswer(
        stage="train", step=9, total=20, checkpoint_step=4, warnings=["another", lost]
    )
    world.wait(5)
    saved = world.condition("CheckpointSaved")
    assert saved.status == "False" and "S3 answers 503" in saved.message and world.status.phase == "Running"
    world.driver = DriverAnswer(
        stage="train", step=13, total=20, checkpoint_step=12, warnings=["another", lost]
    )
    world.wait(5)
    saved = world.condition("CheckpointSaved")
    assert saved.status == "True" and "step 12" in saved.message and world.events.count("NotSaved") == 1
