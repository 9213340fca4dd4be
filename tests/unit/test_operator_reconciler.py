"""The reconciler against an API server that refuses, loses answers, lags behind and changes in between.

Each test says what is on the server afterwards, and when the object is due again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from api_server import ApiServer, Object
from kubernetes_asyncio import client
from operator_world import RUNTIME, finetune, make_ready

from medsd_ray.driver.protocol import DriverAnswer
from medsd_ray.operator.controller import driver_client
from medsd_ray.operator.controller.handlers import Operator
from medsd_ray.operator.controller.index import Index, Key
from medsd_ray.operator.controller.kube_api import Api, ApiError
from medsd_ray.operator.controller.queue import Queue
from medsd_ray.operator.controller.reconciler import CONFLICT_S, LEFTOVER_S, REFUSED_S, Reconciler
from medsd_ray.operator.controller.sweep import Sweep
from medsd_ray.operator.lifecycle.idle_phases import STARTING_S
from medsd_ray.operator.manifests.naming import attempt_labels

KEY = Key("FineTune", "lab", "x")


class Cluster:
    """An API server with one Runtime, and an operator process that hears of changes by `watch`."""

    def __init__(self, runner: asyncio.Runner):
        self.server, self._runner = ApiServer(), runner
        self.server.put("runtimes", {"metadata": {"name": "default"}, "spec": RUNTIME})
        runner.run(self._connect())
        self.start_operator()

    async def _connect(self) -> None:
        self._site = web.AppRunner(self.server.app())
        await self._site.setup()
        await web.TCPSite(self._site, "127.0.0.1", 0).start()
        settings = client.Configuration()
        settings.host = f"http://127.0.0.1:{self._site.addresses[0][1]}"
        self.api, self._session = Api(client.ApiClient(settings)), aiohttp.ClientSession()

    async def close(self) -> None:
        await self.api.close()
        await self._session.close()
        await self._site.cleanup()

    def start_operator(self) -> None:
        """A new process, which knows what is there as it starts."""
        self.index = Index()
        self._told = dict(self.server.objects)
        self._runner.run(Sweep(self.api, self.index, Queue(), [None]).fill())
        self.reconciler = Reconciler(self.api, self.index, self._session)

    def watch(self, *plurals: str) -> None:
        """The watches tell of all changes; of these resources alone where some are named."""
        see = {
            "runtimes": self.index.see_runtime,
            "rayjobs": self.index.see_rayjob,
            "pods": self.index.see_pod,
            "finetunes": self.index.see_object,
        }
        heard = {name: see[name] for name in plurals} if plurals else see
        now = {address: made for address, made in self.server.objects.items() if address[0] in heard}
        for address, made in now.items():
            if self._told.get(address) is not made:
                heard[address[0]](made, False)
        for address, made in list(self._told.items()):
            if address[0] in heard and address not in now:
                heard[address[0]](made, True)
                del self._told[address]
        self._told |= now

    def reconcile(self) -> float | None:
        """One turn; seconds until the object is due again."""
        return self._runner.run(self.reconciler(KEY))

    def settle(self) -> float | None:
        """Turns until nothing is due at once, with watches that are up to date."""
        for _ in range(20):
            self.watch()
            due = self.reconcile()
            if due is None or due > CONFLICT_S:
                return due
        raise AssertionError("never at rest")

    # --- what is on the server

    @property
    def status(self) -> dict[str, Any]:
        made = self.server.get("finetunes", "x")
        return made.get("status") or {}

    @property
    def rayjobs(self) -> list[str]:
        return sorted(made["metadata"]["name"] for made in self.server.of("rayjobs"))

    @property
    def configmaps(self) -> list[str]:
        return sorted(made["metadata"]["name"] for made in self.server.of("configmaps"))

    @property
    def told(self) -> list[str]:
        """The reasons of the events that were posted."""
        return [made["reason"] for made in self.server.of("events")]

    def condition(self, kind: str) -> dict[str, Any]:
        return next((c for c in self.status.get("conditions", []) if c["type"] == kind), {})

    # --- what others do

    def submit(self, **spec: Any) -> Object:
        made = finetune(**spec)
        del made["metadata"]["uid"]
        return self.server.put("finetunes", made)

    def start_pods(self, number: int = 1) -> None:
        """KubeRay and kubelet: all pods are ready, and Ray runs the job."""
        name = f"x-{number}"
        for kind in ("head", "worker-0", "worker-1"):
            meta = {"name": f"{name}-abcde-{kind}", "namespace": "lab"}
            node_type = "head" if kind == "head" else "worker"
            rayjob = self.server.get("rayjobs", name)
            meta["labels"] = rayjob["metadata"]["labels"] | {"ray.io/node-type": node_type}
            meta["ownerReferences"] = [{"uid": rayjob["metadata"]["uid"]}]
            pod = {"metadata": meta, "spec": {"containers": [{"name": "ray"}]}}
            make_ready(pod)
            del pod["status"]["podIP"]  # no driver is asked
            self.server.put("pods", pod)
        running = {
            "jobStatus": "RUNNING",
            "jobDeploymentStatus": "Running",
            "rayClusterName": f"{name}-abcde",
        }
        self.server.change("rayjobs", name, status=running)

    def end(self, number: int, **status: Any) -> None:
        """KubeRay says that the job is over, and frees its pods."""
        for pod in self.server.of("pods"):
            self.server.remove("pods", pod["metadata"]["name"])
        self.server.change("rayjobs", f"x-{number}", status=status)

    def fail(self, number: int, code: int) -> None:
        message = f"Job entrypoint command failed with exit code {code}"
        self.end(number, jobStatus="FAILED", jobDeploymentStatus="Failed", message=message)

    def delete(self) -> None:
        """`kubectl delete finetune x`: in the background, so that what it owns is there for a while."""
        self.server.remove("finetunes", "x")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with asyncio.Runner() as runner:
        cluster = Cluster(runner)
        yield cluster
        runner.run(cluster.close())


# --- what goes well


def test_an_attempt_is_on_record_before_its_rayjob_is_made(cluster: Cluster):
    made = cluster.submit()
    assert cluster.reconcile() == STARTING_S
    writes = [(verb, resource) for verb, resource in cluster.server.requests if verb not in ("GET", "LIST")]
    assert writes.index(("PATCH", "finetunes/status")) < writes.index(("POST", "rayjobs"))
    assert (cluster.status["phase"], cluster.status["attempt"]["rayJob"]) == ("Starting", "x-1")
    assert cluster.rayjobs == cluster.configmaps == ["x-1"] and cluster.told == ["Starting"]
    rayjob = cluster.server.get("rayjobs", "x-1")
    assert rayjob["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]


def test_a_turn_that_changes_nothing_writes_nothing(cluster: Cluster):
    cluster.submit()
    cluster.settle()
    cluster.settle()
    before, number = cluster.server.get("finetunes", "x"), len(cluster.server.requests)
    assert cluster.reconcile() == STARTING_S
    assert cluster.server.get("finetunes", "x") is before
    assert cluster.server.requests[number:] == [("GET", "finetunes")]


def test_one_that_is_being_deleted_is_left_alone(cluster: Cluster):
    made = cluster.submit()
    made["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert cluster.reconcile() is None and not cluster.status and not cluster.rayjobs


def test_one_that_is_gone_is_not_due_any_more(cluster: Cluster):
    cluster.server.requests.clear()
    assert cluster.reconcile() is None and cluster.server.requests == [("GET", "finetunes")]


@pytest.mark.parametrize("namespace", ["lab", "other"])
def test_who_writes_to_an_output_is_named_in_its_own_namespace_alone(cluster: Cluster, namespace: str):
    first = finetune()
    first["metadata"] = {
        "name": "patients-of-dr-x",
        "namespace": namespace,
        "creationTimestamp": "2025-01-01T00:00:00Z",
    }
    cluster.server.put("finetunes", first)
    cluster.submit()
    cluster.settle()
    message = cluster.status["message"]
    assert cluster.condition("Accepted")["reason"] == "OutputInUse" and "is not finished" in message
    named = namespace == "lab"
    assert ("FineTune lab/patients-of-dr-x writes" in message) == named
    assert ("an object of another namespace writes" in message) == (not named)
    assert ("patients" in str(cluster.server.objects["finetunes", "lab", "x"])) == named


# --- what changes in between


def test_a_conflict_on_the_status_makes_nothing_and_is_tried_again_at_once(cluster: Cluster):
    cluster.submit()
    cluster.server.fail("PATCH", "finetunes/status", 409)
    assert cluster.reconcile() == CONFLICT_S
    assert not cluster.status and not cluster.rayjobs and not cluster.told
    assert cluster.reconcile() == STARTING_S and cluster.rayjobs == ["x-1"]


def test_a_spec_that_changes_between_the_read_and_the_write_is_what_runs(cluster: Cluster):
    made = cluster.submit()
    newer = made["spec"] | {"pool": "a100"}
    cluster.server.fail(
        "PATCH", "finetunes/status", meanwhile=lambda: cluster.server.change("finetunes", "x", spec=newer)
    )
    assert cluster.reconcile() == CONFLICT_S and not cluster.rayjobs
    assert cluster.reconcile() == STARTING_S
    rayjob = cluster.server.get("rayjobs", "x-1")
    assert rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["groupName"] == "a100"
    assert cluster.status["observedGeneration"] == 2


def test_one_deleted_before_its_status_is_written_gets_no_rayjob(cluster: Cluster):
    cluster.submit()
    cluster.server.fail("PATCH", "finetunes/status", meanwhile=cluster.delete)
    assert cluster.reconcile() == CONFLICT_S and not cluster.rayjobs and not cluster.configmaps
    assert cluster.reconcile() is None


def test_one_deleted_before_its_rayjob_is_made_leaves_garbage_alone(cluster: Cluster):
    cluster.submit()
    cluster.server.fail("POST", "rayjobs", meanwhile=cluster.delete)
    cluster.reconcile()
    assert cluster.reconcile() is None
    cluster.server.collect_garbage()
    assert not cluster.rayjobs and not cluster.configmaps


def test_another_of_the_same_name_does_not_get_the_first_ones_status(cluster: Cluster):
    cluster.submit()

    def replace() -> None:
        cluster.delete()
        cluster.submit(suspend=True)

    cluster.server.fail("PATCH", "finetunes/status", meanwhile=replace)
    assert cluster.reconcile() == CONFLICT_S and not cluster.status and not cluster.rayjobs
    cluster.settle()
    assert cluster.status["phase"] == "Suspended" and not cluster.rayjobs


def test_only_the_rayjob_that_was_meant_is_deleted(cluster: Cluster):
    """Its name may be another's by the time that the request arrives."""
    cluster.submit(retries={"backoffSeconds": 10})
    cluster.settle()
    cluster.start_pods()
    cluster.settle()
    cluster.fail(1, 143)
    cluster.watch()

    def replace() -> None:
        cluster.server.remove("rayjobs", "x-1")
        cluster.server.put("rayjobs", {"metadata": {"name": "x-1", "namespace": "lab"}, "spec": {}})

    assert cluster.reconcile() == 0 and cluster.status["phase"] == "Retrying"
    cluster.server.fail("DELETE", "rayjobs", meanwhile=replace)
    assert cluster.reconcile() == pytest.approx(2.0)
    left = cluster.server.get("rayjobs", "x-1")
    assert "deletionTimestamp" not in left["metadata"]


# --- an operator that ends, and answers that are lost


def fails_and_begins_again(cluster: Cluster, settle: Callable[[], None]) -> None:
    cluster.submit(retries={"backoffSeconds": 1})
    settle()
    cluster.start_pods()
    settle()
    cluster.fail(1, 143)
    settle()
    cluster.server.collect_garbage()
    cluster.server.change("finetunes", "x", status=cluster.status | {"retryTime": "2026-01-01T00:00:00Z"})
    settle()
    settle()


def test_an_operator_may_end_at_any_write_of_a_life(cluster: Cluster):
    """Its successor makes nothing twice and loses nothing, whether the last write took effect or not."""

    def settle() -> None:
        try:
            cluster.settle()
        except ApiError as error:
            assert error.code == 0
            cluster.start_operator()
            cluster.settle()

    def end() -> tuple:
        status = cluster.status
        conditions = {(c["type"], c["status"], c["reason"], c["message"]) for c in status["conditions"]}
        attempt = {name: status["attempt"][name] for name in ("number", "rayJob")}
        return status["phase"], status["message"], attempt, status["failures"], conditions, cluster.rayjobs

    def again(cut_off_at: tuple[int, bool] | None) -> tuple:
        server = cluster.server
        for plural in ("finetunes", "rayjobs", "configmaps", "pods", "events"):
            for made in server.of(plural):
                server.remove(plural, made["metadata"]["name"])
        server.requests.clear()
        server._applied.clear()
        server.cut_off_at = cut_off_at
        cluster.start_operator()
        fails_and_begins_again(cluster, settle)
        return end()

    calm = again(None)
    assert calm[0] == "Starting" and calm[2] == {"number": 2, "rayJob": "x-2"}
    assert calm[3]["infrastructure"] == 1 and calm[5] == ["x-2"]
    writes = list(cluster.server.writes)
    assert len(writes) == 10
    for number, write in enumerate(writes):
        for after in (False, True):
            assert again((number, after)) == calm, f"cut off at {write}, number {number}, after it: {after}"


def test_a_rayjob_whose_answer_was_lost_is_found(cluster: Cluster):
    cluster.submit()
    cluster.server.fail("POST", "rayjobs", after=True)
    with pytest.raises(ApiError):
        cluster.reconcile()
    assert cluster.rayjobs == ["x-1"] and cluster.reconcile() == STARTING_S
    rayjob = cluster.server.get("rayjobs", "x-1")
    assert cluster.status["attempt"]["uid"] == rayjob["metadata"]["uid"]
    assert cluster.server.requests.count(("POST", "rayjobs")) == 1


def test_an_attempt_on_record_without_its_rayjob_is_made_from_the_newest_spec(cluster: Cluster):
    """The ConfigMap of the operator before this one is there, with the spec as it was then."""
    made = cluster.submit()
    cluster.server.fail("POST", "rayjobs", 0)
    with pytest.raises(ApiError):
        cluster.reconcile()
    assert cluster.configmaps == ["x-1"] and not cluster.rayjobs and cluster.status["phase"] == "Starting"
    newer = made["spec"]["run"] | {"training": {"max_steps": 7, "global_batch_size": 60}}
    cluster.server.change("finetunes", "x", spec=made["spec"] | {"run": newer})
    cluster.start_operator()
    assert cluster.reconcile() == STARTING_S and cluster.rayjobs == ["x-1"]
    configmap = cluster.server.get("configmaps", "x-1")
    assert yaml.safe_load(configmap["data"]["job.yaml"])["run"]["training"]["max_steps"] == 7


# --- what others have left


def test_a_rayjob_of_a_deleted_object_of_the_same_name_is_waited_for(cluster: Cluster):
    """What it says is not about the new object, although the index knows it by the same name."""
    cluster.submit()
    cluster.settle()
    cluster.end(1, jobStatus="SUCCEEDED", jobDeploymentStatus="Complete")
    cluster.delete()
    made = cluster.submit()
    for _ in range(3):
        cluster.watch()
        assert cluster.reconcile() == LEFTOVER_S
        assert cluster.status["phase"] == "Starting" and "uid" not in cluster.status["attempt"]
        assert "waiting for rayjob x-1 to go" in cluster.condition("Scheduled")["message"]
    assert cluster.told.count("NotMade") == 1
    cluster.server.collect_garbage()
    cluster.watch()
    assert cluster.reconcile() == STARTING_S
    rayjob = cluster.server.get("rayjobs", "x-1")
    assert rayjob["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]


def test_a_rayjob_of_a_deleted_object_that_is_going_is_no_failure_of_the_new_one(cluster: Cluster):
    cluster.submit()
    cluster.settle()
    rayjob = cluster.server.get("rayjobs", "x-1")
    rayjob["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    cluster.delete()
    cluster.submit()
    for _ in range(2):
        cluster.watch()
        assert cluster.reconcile() == LEFTOVER_S and cluster.status["phase"] == "Starting"
    assert cluster.status["failures"] == {"infrastructure": 0, "application": 0}


def test_a_head_pod_of_a_deleted_object_is_no_failure_of_the_new_one(cluster: Cluster):
    cluster.submit()
    cluster.settle()
    cluster.start_pods()
    cluster.settle()
    evicted = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
    cluster.server.change("pods", "x-1-abcde-head", status=evicted)
    cluster.watch()
    cluster.delete()
    cluster.server.collect_garbage()
    cluster.submit()
    cluster.settle()
    cluster.settle()
    assert cluster.status["phase"] == "Starting" and cluster.status["failures"]["infrastructure"] == 0
    assert "Evicted" not in cluster.status["message"]


def test_a_configmap_of_a_deleted_object_is_waited_for(cluster: Cluster):
    meta = {"name": "x-1", "namespace": "lab", "labels": attempt_labels("FineTune", "x", "uid-old", 1)}
    cluster.server.put("configmaps", {"metadata": meta | {"ownerReferences": [{"uid": "uid-old"}]}})
    cluster.submit()
    assert cluster.reconcile() == LEFTOVER_S and not cluster.rayjobs
    cluster.server.collect_garbage()
    assert cluster.reconcile() == STARTING_S and cluster.rayjobs == cluster.configmaps == ["x-1"]


def test_a_configmap_that_nobody_owns_any_more_is_taken_over(cluster: Cluster):
    meta = {"name": "x-1", "namespace": "lab", "labels": attempt_labels("FineTune", "x", "uid-old", 1)}
    cluster.server.put("configmaps", {"metadata": meta, "data": {"job.yaml": "old"}})
    made = cluster.submit()
    assert cluster.reconcile() == STARTING_S and cluster.rayjobs == ["x-1"]
    configmap = cluster.server.get("configmaps", "x-1")
    assert "max_steps" in configmap["data"]["job.yaml"]
    assert configmap["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]


@pytest.mark.parametrize("plural", ["configmaps", "rayjobs"])
def test_a_name_that_is_somebody_elses_is_left_alone(cluster: Cluster, plural: str):
    theirs = cluster.server.put(plural, {"metadata": {"name": "x-1", "namespace": "lab"}, "spec": {}})
    cluster.submit()
    assert cluster.reconcile() == REFUSED_S
    assert cluster.server.get(plural, "x-1") is theirs
    assert f"{plural[:-1]} x-1 is there already and is not medsd's" in cluster.status["message"]
    assert cluster.rayjobs == (["x-1"] if plural == "rayjobs" else [])


# --- an index that lags behind


def test_a_rayjob_that_the_watch_has_not_told_of_is_not_made_again(cluster: Cluster):
    cluster.submit()
    cluster.reconcile()
    cluster.start_pods()
    cluster.index.see_rayjob(cluster.server.get("rayjobs", "x-1"), deleted=True)
    assert cluster.reconcile() == STARTING_S and cluster.status["phase"] == "Starting"
    assert cluster.server.requests.count(("POST", "rayjobs")) == 1
    cluster.watch()
    assert cluster.reconcile() == 0 and cluster.status["phase"] == "Running"
    head = cluster.server.get("pods", "x-1-abcde-head")
    assert cluster.status["attempt"]["headPodUID"] == head["metadata"]["uid"]


def running(cluster: Cluster) -> None:
    cluster.submit()
    cluster.settle()
    cluster.start_pods()
    cluster.settle()
    assert cluster.status["phase"] == "Running"


def test_a_head_that_the_index_has_lost_is_looked_for(cluster: Cluster):
    running(cluster)
    head = cluster.server.get("pods", "x-1-abcde-head")
    cluster.index.see_pod(head, deleted=True)
    assert cluster.reconcile() == pytest.approx(5.0) and cluster.status["phase"] == "Running"
    cluster.server.remove("pods", "x-1-abcde-head")
    assert cluster.reconcile() == 0 and cluster.status["phase"] == "Retrying"
    assert "head pod x-1-abcde-head was lost" in cluster.status["message"]


def test_a_job_that_ended_before_its_head_went_is_no_lost_head(cluster: Cluster):
    """KubeRay says that the job succeeded and then deletes its pods; the watch of the pods was faster."""
    running(cluster)
    cluster.end(1, jobStatus="SUCCEEDED", jobDeploymentStatus="Complete")
    cluster.watch("pods")
    assert cluster.reconcile() == 0 and cluster.status["phase"] == "Succeeded"


def test_the_next_attempt_waits_for_pods_that_the_index_has_lost(cluster: Cluster):
    running(cluster)
    message = "Job entrypoint command failed with exit code 143"
    cluster.server.change("rayjobs", "x-1", status={"jobStatus": "FAILED", "message": message})
    cluster.settle()
    cluster.server.remove("rayjobs", "x-1")
    due = {"retryTime": "2026-01-01T00:00:00Z"}
    cluster.server.change("finetunes", "x", status=cluster.status | due)
    cluster.watch()
    for pod in cluster.server.of("pods"):
        cluster.index.see_pod(pod, deleted=True)
    assert cluster.reconcile() == pytest.approx(2.0)
    assert cluster.status["phase"] == "Retrying" and not cluster.rayjobs
    cluster.server.collect_garbage()
    assert cluster.reconcile() == STARTING_S and cluster.rayjobs == ["x-2"]


def test_a_rayjob_deleted_from_outside_is_believed_when_the_server_says_so(cluster: Cluster):
    running(cluster)
    cluster.index.see_rayjob(cluster.server.get("rayjobs", "x-1"), deleted=True)
    assert cluster.reconcile() == pytest.approx(5.0) and cluster.status["phase"] == "Running"
    cluster.server.remove("rayjobs", "x-1")
    assert cluster.reconcile() == 0 and cluster.status["phase"] == "Retrying"


def test_an_operator_that_starts_knows_who_writes_to_an_output(cluster: Cluster):
    """The one that was there first runs already; the watch may tell of the later one before it."""
    cluster.server.put("finetunes", finetune(name="first") | {"status": {"attempt": {"number": 1}}})
    cluster.submit()
    cluster.start_operator()
    assert cluster.reconcile() == STARTING_S
    assert cluster.status["phase"] == "Pending" and cluster.condition("Accepted")["reason"] == "OutputInUse"
    assert not cluster.rayjobs and not cluster.configmaps


def test_news_of_two_objects_of_one_name_may_come_in_any_order(cluster: Cluster):
    first = cluster.submit()
    cluster.settle()
    rayjob = cluster.server.get("rayjobs", "x-1")
    cluster.delete()
    cluster.server.collect_garbage()
    second = cluster.submit()
    operator = Operator([])
    operator.see_object({"type": "ADDED", "object": second})
    operator.see_object({"type": "DELETED", "object": first})
    assert KEY in operator.index.objects and operator.queue.waiting() == 1
    operator.see_object({"type": "DELETED", "object": second})
    assert KEY not in operator.index.objects and operator.queue.waiting() == 0
    assert cluster.reconcile() == STARTING_S
    cluster.index.see_rayjob(rayjob, deleted=True)
    assert list(cluster.index.rayjobs(KEY)) == ["x-1"]


# --- what the API server refuses


def test_without_kuberay_it_waits_in_words(cluster: Cluster):
    cluster.submit()
    cluster.server.not_installed |= {"rayjobs", "rayclusters"}
    for _ in range(2):
        cluster.watch()
        assert cluster.reconcile() == REFUSED_S and cluster.status["phase"] == "Starting"
    assert "install KubeRay's operator" in cluster.status["message"]
    assert cluster.condition("Scheduled")["reason"] == "NotMade" and cluster.told == ["Starting", "NotMade"]
    cluster.server.not_installed.clear()
    assert cluster.reconcile() == STARTING_S and cluster.rayjobs == ["x-1"]


@pytest.mark.parametrize("code", [400, 403, 422])
def test_a_rayjob_that_is_refused_waits_in_the_servers_words(cluster: Cluster, code: int):
    cluster.submit()
    words = "exceeded quota: gpus, requested: 2, used: 8, limited: 8"
    cluster.server.fail("POST", "rayjobs", code, message=words, times=2)
    for _ in range(2):
        assert cluster.reconcile() == REFUSED_S
        assert cluster.status["message"] == words and cluster.configmaps == ["x-1"] and not cluster.rayjobs
    assert cluster.told.count("NotMade") == 1
    assert cluster.reconcile() == STARTING_S and cluster.rayjobs == ["x-1"]


def test_one_that_cannot_be_made_can_be_suspended(cluster: Cluster):
    made = cluster.submit()
    cluster.server.fail("POST", "rayjobs", 403, times=9)
    assert cluster.reconcile() == REFUSED_S
    cluster.server.change("finetunes", "x", spec=made["spec"] | {"suspend": True})
    cluster.settle()
    assert cluster.status["phase"] == "Suspended" and not cluster.rayjobs


def test_a_status_that_is_refused_makes_nothing(cluster: Cluster):
    cluster.submit()
    cluster.server.fail("PATCH", "finetunes/status", 422)
    with pytest.raises(ApiError, match="injected"):
        cluster.reconcile()
    assert not cluster.status and not cluster.rayjobs


@pytest.mark.parametrize("code", [0, 403, 500])
def test_an_event_that_cannot_be_posted_is_lost_alone(cluster: Cluster, code: int):
    cluster.submit()
    cluster.server.fail("POST", "events", code)
    assert cluster.reconcile() == STARTING_S
    assert cluster.status["phase"] == "Starting" and cluster.rayjobs == ["x-1"] and not cluster.told


def test_a_change_of_phase_is_told_although_what_follows_it_fails(cluster: Cluster):
    cluster.submit()
    cluster.server.fail("POST", "configmaps", 500)
    with pytest.raises(ApiError):
        cluster.reconcile()
    assert cluster.status["phase"] == "Starting" and cluster.told == ["Starting"]


def test_a_change_of_phase_is_told_although_progress_was_not_written(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    """Status and progress have a field manager each, and so two writes: one of them may fail."""
    running(cluster)

    async def poll(*_: Any) -> DriverAnswer:
        return DriverAnswer(stage="train", step=3, total=20)

    monkeypatch.setattr(driver_client, "poll", poll)
    cluster.server.change("pods", "x-1-abcde-head", status=pod_with_address(cluster))
    made = cluster.server.get("finetunes", "x")
    cluster.server.change("finetunes", "x", spec=made["spec"] | {"suspend": True})
    cluster.watch()
    cluster.server.fail("PATCH", "finetunes/status")
    cluster.server.fail("PATCH", "finetunes/status", 409)  # the second of the two
    assert cluster.reconcile() == CONFLICT_S
    cluster.reconcile()
    assert cluster.status["phase"] == "Suspending" and cluster.status["progress"]["step"] == 3
    assert cluster.told.count("Suspending") == 1


def pod_with_address(cluster: Cluster) -> dict[str, Any]:
    head = cluster.server.get("pods", "x-1-abcde-head")
    return head["status"] | {"podIP": "10.0.0.7"}


@pytest.mark.parametrize("code", [404, 409, 422])
def test_a_cluster_that_cannot_be_scaled_does_not_end_the_run(cluster: Cluster, code: int):
    cluster.submit(run={"resources": {"num_workers": 1, "max_workers": 3}})
    cluster.settle()
    cluster.start_pods()
    cluster.server.remove("pods", "x-1-abcde-worker-1")
    raycluster = cluster.server.put(
        "rayclusters",
        {
            "metadata": {"name": "x-1-abcde", "namespace": "lab"},
            "spec": {"workerGroupSpecs": [{"replicas": 1}]},
        },
    )
    cluster.server.fail("PATCH", "rayclusters", code, times=2)
    cluster.watch()
    assert cluster.reconcile() == 0 and cluster.status["phase"] == "Running"
    cluster.watch()
    assert cluster.reconcile() == pytest.approx(5.0)
    assert cluster.server.get("rayclusters", "x-1-abcde") is raycluster
    assert cluster.reconcile() == pytest.approx(5.0) and cluster.status["phase"] == "Running"
    scaled = cluster.server.get("rayclusters", "x-1-abcde")
    assert scaled["spec"]["workerGroupSpecs"] == [{"replicas": 3, "scaleStrategy": {"workersToDelete": []}}]
