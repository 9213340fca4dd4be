from __future__ import annotations

from datetime import timedelta

import pytest
from operator_world import World, evaluation, finetune, runtime, terminated, unschedulable

from medsd_ray.driver.protocol import DriverAnswer
from medsd_ray.operator.lifecycle.decide import attempt_not_created, decide
from medsd_ray.operator.lifecycle.decision import CreateAttempt, ScaleWorkers
from medsd_ray.operator.subject import read_subject
from medsd_ray.times import stamp


def running(**spec) -> World:
    world = World(finetune(**spec))
    assert world.settle() == "Starting"
    assert world.start() == "Running"
    return world


def test_from_a_new_object_to_its_success():
    world = World(finetune(report={"real": "s3://bucket/shards", "prompts": ["x"]}))
    assert world.settle() == "Starting" and world.made == ["x-1"]
    assert "KubeRay" in world.status.message
    assert world.start() == "Running"
    status = world.status
    assert status.attempt.headPodUID == world.head()["metadata"]["uid"] and status.attempt.uid == "uid-x-1"
    assert status.addresses.dashboard == "http://x-head-svc:8265" and status.addresses.report is None
    world.driver = DriverAnswer(
        stage="train", step=3, total=20, loss=float("nan"), eta_seconds=65.0, lastUpdateTime=world.now
    )
    world.wait(5)
    progress = world.status.progress
    assert (progress.step, progress.totalSteps, progress.loss, progress.timeLeft) == (3, 20, None, "1:05")
    assert world.succeed() == "Succeeded"
    status = world.status
    assert (
        status.addresses.report == "s3://bucket/runs/x/report/report.html"
        and status.addresses.dashboard is None
    )
    assert {c.type for c in status.conditions if c.status == "True"} == {"Accepted", "Scheduled", "Complete"}
    assert (
        status.startTime <= status.attempt.runningTime <= status.completionTime
        and status.observedGeneration == 1
    )
    assert world.events == ["Starting", "Running", "Succeeded"] and world.made == ["x-1"]


def test_an_evaluation_has_names_of_its_own():
    world = World(evaluation())
    assert world.settle() == "Starting" and world.made == ["x-e1"]
    assert world.start() == "Running" and world.succeed() == "Succeeded"
    assert world.status.addresses.report == "s3://bucket/eval/report/report.html"


def test_a_status_that_needs_no_change_is_not_written():
    world = running()
    world.wait(5)
    effects = world.effects
    for _ in range(5):
        world.wait(5)
    assert world.effects == effects


@pytest.mark.parametrize(
    ("code", "log", "phase", "reason", "failures"),
    [
        (2, "medsd: s3://b/x: no index; prepare it\n", "Failed", "BadInput", (0, 0)),
        (1, "medsd: training failed: boom\n", "Failed", "RunFailed", (0, 1)),
        (143, "", "Retrying", "RunKilled", (1, 0)),
        (-9, "", "Retrying", "RunKilled", (1, 0)),
        (130, "medsd: interrupted\n", "Retrying", "RunKilled", (1, 0)),
        (75, "medsd: s3://b: the store does not answer\n", "Retrying", "RunKilled", (1, 0)),
    ],
)
def test_exit_codes(code: int, log: str, phase: str, reason: str, failures: tuple[int, int]):
    world = running()
    assert world.fail(code, log) == phase
    status = world.status
    assert (status.failures.infrastructure, status.failures.application) == failures
    assert reason in world.events and (log.strip() or f"exit code {code}") in status.message
    if phase == "Failed":
        failed = world.condition("Failed")
        assert (failed.status, failed.reason) == ("True", reason) and status.completionTime


@pytest.mark.parametrize("reason", ["SubmissionFailed", "JobDeploymentStatusTransitionGracePeriodExceeded"])
def test_kuberays_own_failures_are_of_the_infrastructure(reason: str):
    world = running()
    assert world.say(jobDeploymentStatus="Failed", reason=reason, message="it took too long") == "Retrying"
    assert "it took too long" in world.status.message


def test_a_rayjob_that_kuberay_refuses_is_not_tried_again():
    world = World(finetune())
    world.settle()
    assert world.say(jobDeploymentStatus="ValidationFailed", message="name too long") == "Failed"
    assert world.condition("Failed").reason == "RayJobRefused" and "name too long" in world.status.message


def test_retries_wait_longer_each_time_and_end():
    world = running(retries={"infrastructure": 3, "backoffSeconds": 100})
    waits = []
    for attempt in (1, 2, 3):
        assert world.fail(137) == "Retrying" and not world.rayjobs
        due = world.turn().requeue_after
        waits.append(round(due))
        assert world.wait(due - 1) == "Retrying" and world.wait(1) == "Starting"
        assert world.status.attempt.number == attempt + 1 and world.status.retryTime is None
        assert world.start() == "Running"
    assert waits == [100, 200, 300]
    assert world.fail(137) == "Failed" and "no retry is left" in world.status.message
    assert world.made == ["x-1", "x-2", "x-3", "x-4"]


def test_the_two_budgets_are_counted_apart():
    world = running(retries={"infrastructure": 1, "application": 1, "backoffSeconds": 1})
    world.fail(1)
    world.wait(1)
    world.start()
    assert world.fail(143) == "Retrying"
    world.wait(1)
    world.start()
    assert world.fail(1) == "Failed"
    assert (world.status.failures.infrastructure, world.status.failures.application) == (1, 2)


def test_a_lost_head_begins_another_attempt():
    world = running(retries={"backoffSeconds": 1})
    world.lose(world.head(), phase="Failed", containerStatuses=terminated("OOMKilled", 137))
    assert world.settle() == "Retrying" and not world.rayjobs and not world.pods
    assert "OOMKilled (exit code 137)" in world.status.message
    assert world.wait(1) == "Starting" and world.start() == "Running"
    assert world.status.attempt.headPodUID == "uid-x-2-abcde-head-1"


def test_a_head_that_ends_before_the_run_begins():
    world = World(finetune())
    world.settle()
    world.cluster()
    world.head()["status"] = {"phase": "Failed", "containerStatuses": terminated("Error", 1)}
    assert world.settle() == "Retrying" and "HeadFailed" in world.events


def test_a_rayjob_deleted_from_outside():
    world = running(retries={"backoffSeconds": 1})
    del world.rayjobs["x-1"]
    assert world.settle() == "Retrying" and "deleted from outside" in world.status.message
    world.pods.clear()
    assert world.wait(1) == "Starting" and world.made == ["x-1", "x-2"]


def test_the_next_attempt_waits_for_the_pods_of_the_last_one_but_not_for_a_lost_node():
    world = running(retries={"backoffSeconds": 1})
    stuck = world.pods[-1]
    world.fail(143)
    world.pods.append(stuck)
    stuck["metadata"]["deletionTimestamp"] = stamp(world.now)
    assert world.wait(30) == "Retrying" and world.made == ["x-1"]
    assert world.wait(31) == "Starting" and world.made == ["x-1", "x-2"]
    assert world.start() == "Running", "the old pod is not taken for one of this attempt"


def test_a_lost_worker_is_a_warning():
    world = running()
    assert world.condition("Scheduled").status == "True"
    worker = world.pods[-1]
    world.lose(worker, reason="Evicted", message="The node was low on resource: memory.")
    assert world.settle() == "Running"
    lost = world.condition("Scheduled")
    assert lost.status == "False" and lost.reason == "WorkersMissing"
    assert (
        "1 of 2 workers ready" in lost.message
        and "Evicted: The node was low on resource: memory." in lost.message
    )
    world.pods.append(worker)
    world.gone.clear()
    world.ready()
    assert world.wait(5) == "Running" and world.condition("Scheduled").status == "True"
    assert world.status.attempt.number == 1 and world.events.count("WorkersMissing") == 1


def test_waiting_in_words_and_the_deadline_to_start():
    world = World(finetune(pool="a100", startDeadlineSeconds=60))
    world.settle()
    world.cluster()
    for pod in world.pods[1:]:
        unschedulable(pod)
    assert world.wait(5) == "Starting"
    words = (
        "waiting for 2 GPUs in pool a100: 0 of 1 workers placed "
        "(0/3 nodes are available: 3 Insufficient nvidia.com/gpu.)"
    )
    assert world.condition("Scheduled").message == words == world.status.message
    since = world.condition("Scheduled").lastTransitionTime
    assert world.wait(50) == "Starting" and world.condition("Scheduled").lastTransitionTime == since
    assert world.wait(10) == "Failed" and words in world.condition("Failed").message
    assert (
        world.condition("Failed").reason == "StartDeadlineExceeded" and not world.rayjobs and not world.pods
    )


def test_an_attempt_that_is_refused_each_time_reaches_its_deadline_too():
    made = finetune(startDeadlineSeconds=60)
    world = World(made)
    begun = decide(read_subject(made), world.facts(), world.now)
    assert begun.status.phase == "Starting" and [type(it) for it in begun.actions] == [CreateAttempt]
    made["status"] = begun.status.model_dump(mode="json")
    refused = attempt_not_created(read_subject(made), "quota exceeded", 30.0, world.now)
    made["status"] = refused.status.model_dump(mode="json")
    early = decide(read_subject(made), world.facts(), world.now + timedelta(seconds=45))
    assert [type(action) for action in early.actions] == [CreateAttempt] and early.requeue_after == 15
    late = decide(read_subject(made), world.facts(), world.now + timedelta(seconds=60))
    assert late.status.phase == "Failed" and not late.actions
    assert late.status.message == "did not start within 60 s: quota exceeded"


def test_a_rayjob_without_a_token_for_rays_api_is_not_run():
    """As a KubeRay makes it whose CRDs know no authOptions."""
    world = World(finetune())
    assert world.settle() == "Starting"
    del world.current["spec"]["rayClusterSpec"]["authOptions"]
    assert world.wait(5) == "Failed" and not world.rayjobs and world.made == ["x-1"]
    failed = world.condition("Failed")
    assert failed.reason == "KubeRayTooOld" and "authOptions" in failed.message and "1.6" in failed.message


def test_a_runtime_that_is_not_for_this_namespace_waits_in_words():
    world = World(finetune())
    world.runtime = runtime(allowedNamespaces=["other"])
    assert world.settle() == "Pending" and not world.made
    assert world.condition("Accepted").reason == "NamespaceNotAllowed"
    world.runtime = runtime(allowedNamespaces=["lab"])
    assert world.settle() == "Starting"


def test_a_runtime_may_set_the_deadline_and_the_ttl():
    world = World(finetune())
    world.runtime = runtime(defaults={"startDeadlineSeconds": 10, "ttlSecondsAfterFinished": 20})
    world.settle()
    assert world.wait(10) == "Failed" and world.wait(19) == "Failed" and world.wait(1) == "deleted"


def test_the_objects_own_ttl_wins():
    world = running(ttlSecondsAfterFinished=5)
    world.runtime = runtime(defaults={"ttlSecondsAfterFinished": 1})
    assert world.succeed() == "Succeeded" and world.wait(4) == "Succeeded" and world.wait(1) == "deleted"


def test_running_time_is_counted_over_all_attempts():
    world = running(activeDeadlineSeconds=100, retries={"backoffSeconds": 50})
    world.wait(60)
    world.fail(143)
    world.wait(50)
    assert world.start() == "Running" and world.status.activeSeconds == 60
    assert world.wait(39) == "Running" and world.wait(1) == "Failed"
    assert world.condition("Failed").reason == "DeadlineExceeded" and not world.pods


def test_an_output_that_another_writes_to_is_waited_for():
    world = World(finetune())
    world.holder = "FineTune lab/other"
    assert world.settle() == "Pending" and not world.made
    assert world.condition("Accepted").reason == "OutputInUse"
    assert "FineTune lab/other writes to s3://bucket/runs/x" in world.status.message
    world.holder = None
    assert world.wait(15) == "Starting" and len(world.made) == 1


def test_what_the_runtime_cannot_run_waits_in_words():
    world = World(finetune(pool="h100"))
    assert world.settle() == "Pending" and not world.made
    accepted = world.condition("Accepted")
    assert (accepted.status, accepted.reason) == (
        "False",
        "PoolNotFound",
    ) and "cpu, a100" in world.status.message
    world.runtime = None
    world.settle()
    assert (
        world.condition("Accepted").reason == "RuntimeNotFound"
        and "no Runtime default" in world.status.message
    )
    world.runtime = runtime()
    world.object["spec"]["pool"] = "cpu"
    assert world.settle() == "Starting" and world.condition("Accepted").status == "True"


def test_a_spec_that_the_models_refuse_fails_in_words():
    world = World(finetune(run={"training": {"max_steps": 20, "global_batch_size": 7}}))
    assert world.settle() == "Failed" and world.condition("Failed").reason == "InvalidSpec"
    assert "not a multiple" in world.status.message and not world.made


def test_a_running_object_outlives_an_operator_that_cannot_read_its_spec():
    world = running()
    world.object["spec"]["run"]["new_field"] = 1
    assert world.settle() == "Running" and world.condition("Accepted").status == "False" and world.rayjobs


def test_an_elastic_run_starts_with_what_there_is_and_takes_more():
    world = World(finetune(run={"resources": {"num_workers": 1, "max_workers": 3}}))
    world.settle()
    world.cluster()
    world.ready("head", "worker-0")
    for pod in world.pods[2:]:
        unschedulable(pod)
    world.wait(29)
    assert not world.scaled
    world.now += timedelta(seconds=1)
    world.turn()
    assert world.scaled == [
        ScaleWorkers("x-1-abcde", 1, ("x-1-abcde-cpu-worker-1", "x-1-abcde-cpu-worker-2"))
    ]
    world.pods = world.pods[:2]
    world.current["status"]["rayClusterStatus"] = {"desiredWorkerReplicas": 1}
    world.scaled.clear()
    world.current["status"] |= {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
    world.turn()
    assert world.status.phase == "Running" and world.scaled == [ScaleWorkers("x-1-abcde", 3)]
    assert world.condition("Scheduled").status == "True"
