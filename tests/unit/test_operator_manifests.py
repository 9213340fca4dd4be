from __future__ import annotations

import copy
import hashlib
import hmac
from typing import Any

import jsonschema
import pytest
import yaml
from operator_world import evaluation, finetune, runtime, study, subject
from programs import KUBERAY_CRDS

from medsd_ray.driver.protocol import POLL_TOKEN_SHA256
from medsd_ray.errors import InputError
from medsd_ray.operator.manifests.naming import LONGEST, attempt_name, owner_of
from medsd_ray.operator.manifests.pods import environment, object_store, whole_cpus
from medsd_ray.operator.manifests.poll_token import poll_token, token_sha256
from medsd_ray.operator.manifests.rayjob import Refused, plan
from medsd_ray.operator.subject import read_runtime, read_spec
from medsd_ray.spec.load import parse_run, parse_study


def planned(made: dict[str, Any], number: int = 1, **changes: Any):
    return plan(subject(made), runtime(**changes), number)


def groups(made) -> tuple[dict[str, Any], dict[str, Any]]:
    cluster = made.rayjob["spec"]["rayClusterSpec"]
    return cluster["headGroupSpec"], cluster["workerGroupSpecs"][0]


def container(group: dict[str, Any]) -> dict[str, Any]:
    return group["template"]["spec"]["containers"][0]


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A CRD's schema that also refuses fields that the API server would drop without a word."""
    schema = copy.deepcopy(schema)
    todo = [schema]
    while todo:
        part = todo.pop()
        if "properties" in part and not part.get("x-kubernetes-preserve-unknown-fields"):
            part["additionalProperties"] = False
            todo += part["properties"].values()
        if isinstance(part.get("additionalProperties"), dict):
            todo.append(part["additionalProperties"])
        if "items" in part:
            todo.append(part["items"])
    return schema


@pytest.fixture(scope="module")
def rayjobs() -> jsonschema.Draft202012Validator:
    """KubeRay's own schema of a RayJob."""
    path = KUBERAY_CRDS / "ray.io_rayjobs.yaml"
    if not path.exists():
        pytest.skip(f"{path} is not there: make programs puts it there")
    crd = yaml.load(path.read_text(), yaml.CSafeLoader)  # the other loader takes half a minute for it
    schema = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(strict(schema))


@pytest.mark.parametrize(
    "made",
    [
        finetune(),
        finetune(
            pool="a100",
            queue="research",
            priorityClassName="high",
            run={"resources": {"num_workers": 2, "max_workers": 6}},
        ),
        study(pool="a100"),
        evaluation(pool="a100", numWorkers=3),
    ],
)
def test_kuberay_knows_every_field_of_the_rayjob(
    made: dict[str, Any], rayjobs: jsonschema.Draft202012Validator
):
    extra = {
        "imagePullSecrets": ["registry"],
        "volumes": [{"name": "cache", "hostPath": {"path": "/cache"}}],
        "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
    }
    rayjobs.validate(planned(made, **extra).rayjob)
    spoiled = planned(made).rayjob
    spoiled["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["restart"] = "Never"
    assert not rayjobs.is_valid(spoiled), "this test finds a field that is not there"


def test_the_driver_is_named_as_images_older_than_the_operator_have_it():
    entrypoint = planned(finetune()).rayjob["spec"]["entrypoint"]
    assert entrypoint == "python -m medsd_ray.operator.entrypoint /etc/medsd/job.yaml"


def test_one_attempt_has_one_name_and_belongs_to_its_object():
    made = planned(finetune(), 3)
    assert (
        made.name
        == made.rayjob["metadata"]["name"]
        == made.configmap["metadata"]["name"]
        == made.rayjob["spec"]["jobId"]
        == "x-3"
    )
    head, workers = groups(made)
    for labels in (
        made.rayjob["metadata"]["labels"],
        made.configmap["metadata"]["labels"],
        head["template"]["metadata"]["labels"],
        workers["template"]["metadata"]["labels"],
    ):
        assert labels == {
            "app.kubernetes.io/name": "medsd",
            "app.kubernetes.io/instance": "x",
            "app.kubernetes.io/component": "finetune",
            "app.kubernetes.io/managed-by": "medsd",
            "medsd.io/owner-uid": "uid-x",
            "medsd.io/attempt": "3",
        }
    (owner,) = made.rayjob["metadata"]["ownerReferences"]
    assert owner["uid"] == "uid-x" and owner["controller"] is True and owner["kind"] == "FineTune"
    assert owner_of(made.rayjob) == ("FineTune", "lab", "x")


def test_medsd_owns_the_retries():
    spec = planned(finetune()).rayjob["spec"]
    assert (
        spec["submissionMode"] == "HTTPMode"
        and spec["backoffLimit"] == 0
        and spec["shutdownAfterJobFinishes"] is True
    )
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"} and spec["suspend"] is False
    head, workers = groups(planned(finetune()))
    assert head["template"]["spec"]["restartPolicy"] == "Never", "a new head would run the same attempt again"
    assert planned(finetune()).rayjob["metadata"]["annotations"] == {
        "ray.io/disable-provisioned-head-restart": "true"
    }
    assert workers["template"]["spec"]["restartPolicy"] == "Always"


def test_a_queued_rayjob_waits_for_kueue():
    made = planned(finetune(queue="research"))
    assert made.rayjob["spec"]["suspend"] is True
    assert made.rayjob["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert "kueue.x-k8s.io/queue-name" not in made.configmap["metadata"]["labels"]


def test_the_head_runs_the_driver_and_no_work():
    head, _ = groups(planned(finetune()))
    assert head["rayStartParams"]["num-cpus"] == "0" and head["rayStartParams"]["dashboard-host"] == "0.0.0.0"
    ports = {port["name"]: port["containerPort"] for port in container(head)["ports"]}
    assert ports == {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "medsd": 8799}
    mounts = {mount["name"]: mount["mountPath"] for mount in container(head)["volumeMounts"]}
    assert mounts["medsd-job"] == "/etc/medsd"
    volume = next(v for v in head["template"]["spec"]["volumes"] if v["name"] == "medsd-job")
    assert volume["configMap"] == {"name": "x-1"}


def test_the_rayjob_carries_the_hash_of_a_token_that_is_of_its_attempt_alone():
    key, tokens = b"k" * 64, []
    for uid, number in (("uid-1", 1), ("uid-1", 2), ("uid-2", 1)):
        made = finetune()
        made["metadata"]["uid"] = uid
        found = plan(subject(made), runtime(), number, key)
        head, workers = (container(group)["env"] for group in groups(found))
        (carried,) = (it["value"] for it in head if it["name"] == POLL_TOKEN_SHA256)
        token = hmac.new(key, f"{uid}/{number}".encode(), "sha256").hexdigest()
        assert poll_token(key, uid, number) == token
        assert carried == token_sha256(token) == hashlib.sha256(token.encode()).hexdigest()
        assert POLL_TOKEN_SHA256 not in {it["name"] for it in workers}
        assert token not in str(found) and key.decode() not in str(found)
        tokens.append(token)
    assert len(set(tokens)) == 3
    without = container(groups(planned(finetune()))[0])["env"]
    assert POLL_TOKEN_SHA256 not in {it["name"] for it in without}


@pytest.mark.parametrize(
    ("allowed", "fits"), [(None, True), (["lab"], True), (["a", "lab"], True), (["a"], False), ([], False)]
)
def test_a_runtime_is_for_the_namespaces_that_it_allows(allowed: list[str] | None, fits: bool):
    if fits:
        assert planned(finetune(), allowedNamespaces=allowed).name == "x-1"
        return
    with pytest.raises(Refused, match="runtime default is not for objects of namespace lab") as caught:
        planned(finetune(), allowedNamespaces=allowed)
    assert caught.value.reason == "NamespaceNotAllowed" and "'a'" not in str(caught.value)


@pytest.mark.parametrize(
    ("pool", "resources", "least", "most"),
    [
        ("cpu", {"num_workers": 2}, 2, 2),
        ("cpu", {"num_workers": 1, "max_workers": 3}, 1, 3),
        ("a100", {"num_workers": 2}, 1, 1),
        ("a100", {"num_workers": 3}, 2, 2),
        ("a100", {"num_workers": 2, "max_workers": 6}, 1, 3),
    ],
)
def test_pods_for_the_workers(pool: str, resources: dict[str, int], least: int, most: int):
    _, workers = groups(planned(finetune(pool=pool, run={"resources": resources})))
    assert workers["groupName"] == pool
    assert (workers["minReplicas"], workers["replicas"], workers["maxReplicas"]) == (least, most, most)


def test_workers_land_in_their_pool():
    _, workers = groups(planned(finetune(pool="a100")))
    pod = workers["template"]["spec"]
    assert pod["nodeSelector"] == {"gpu": "a100"}
    assert container(workers)["resources"] == {
        "requests": {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "2"},
        "limits": {"memory": "64Gi", "nvidia.com/gpu": "2"},
    }
    assert workers["rayStartParams"]["num-gpus"] == "2" and workers["rayStartParams"]["num-cpus"] == "8"
    shm = next(v for v in pod["volumes"] if v["name"] == "medsd-shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}


def test_pods_are_not_root_and_talk_to_no_api_server():
    for group in groups(planned(finetune(priorityClassName="high"))):
        pod = group["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False and pod["priorityClassName"] == "high"
        security = pod["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] == security["fsGroup"] == 1000
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container(group)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        probe = container(group)["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] >= 1200


def test_the_keys_of_s3_stay_in_their_secret():
    env = {one["name"]: one for one in environment(runtime(env={"AWS_REGION": "mine", "NCCL_DEBUG": "WARN"}))}
    assert env["AWS_ENDPOINT_URL"]["value"] == "http://s3:7070" and env["AWS_DEFAULT_REGION"]["value"] == "eu"
    assert (
        env["AWS_REGION"]["value"] == "mine"
        and env["NCCL_DEBUG"]["value"] == "WARN"
        and env["HOME"]["value"] == "/tmp/home"
    )
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert env[key] == {
            "name": key,
            "valueFrom": {"secretKeyRef": {"name": "s3-credentials", "key": key}},
        }
    assert env["MEDSD_IMAGE_DIGEST"]["value"] == "sha256:abc"
    bare = {one["name"] for one in environment(runtime(s3={}, image="medsd:1"))}
    assert not bare & {"AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "MEDSD_IMAGE_DIGEST"}


def test_what_the_pod_runs():
    report = {"real": "s3://bucket/shards", "prompts": ["a chest x-ray"]}
    made = planned(finetune(pool="a100", report=report, retries={"infrastructure": 7}), 2)
    job = yaml.safe_load(made.configmap["data"]["job.yaml"])
    run = parse_run(job["run"])
    assert job["attempt"] == 2 and job["report"]["prompts"] == ["a chest x-ray"]
    assert run.name == "x" and run.resources.use_gpu is True and run.resources.max_failures == 7
    assert (
        parse_run(yaml.safe_load(planned(finetune()).configmap["data"]["job.yaml"])["run"]).resources.use_gpu
        is False
    )
    job = yaml.safe_load(planned(evaluation(base="medsd-small", numWorkers=2)).configmap["data"]["job.yaml"])
    assert set(job) == {"attempt", "report", "evaluation"} and job["report"]["numImages"] == 64
    assert job["evaluation"] == {
        "model": "s3://bucket/runs/x",
        "base": "medsd-small",
        "output": "s3://bucket/eval",
        "numWorkers": 2,
        "useGpu": False,
    }


def test_a_study_has_room_for_one_trial_up_to_all_at_once():
    made = planned(study(pool="a100", retries={"infrastructure": 7}))
    job = yaml.safe_load(made.configmap["data"]["job.yaml"])
    assert set(job) == {"attempt", "study"} and made.name == "x-s1"
    assert job["study"]["run"]["resources"] == {"num_workers": 2, "use_gpu": True, "max_failures": 7}
    assert parse_study(job["study"]).name == "x"
    head = groups(made)[0]["template"]["spec"]["containers"][0]["resources"]
    assert head["requests"]["memory"] == head["limits"]["memory"] == f"{4096 + 2 * 2560}Mi"
    workers = planned(study()).rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert (workers["minReplicas"], workers["maxReplicas"]) == (
        2,
        4,
    )  # two trials of two workers, one of each pod


@pytest.mark.parametrize(
    ("made", "reason", "words"),
    [
        (finetune(pool="h100"), "PoolNotFound", "has no pool h100; choose one of: cpu, a100"),
        (
            finetune(run={"resources": {"num_workers": 6}}),
            "PoolTooSmall",
            "6 workers need 6 pods of pool cpu, which gives a run 4",
        ),
        (
            finetune(run={"resources": {"num_workers": 1, "cpus_per_worker": 2}}),
            "PoolTooSmall",
            "cpus_per_worker",
        ),
        (evaluation(numWorkers=9), "PoolTooSmall", "lower spec.numWorkers"),
        (
            study(study={"search": {"max_concurrent": 3}}),
            "PoolTooSmall",
            "6 workers .* lower spec.study.search.max_concurrent",
        ),
    ],
)
def test_what_a_runtime_cannot_run(made: dict[str, Any], reason: str, words: str):
    with pytest.raises(Refused, match=words) as caught:
        planned(made)
    assert caught.value.reason == reason


def test_names_fit_and_stay_apart():
    assert attempt_name("FineTune", "nih", 1) == "nih-1" and attempt_name("Evaluation", "nih", 1) == "nih-e1"
    long = ["a" * 63, "a" * 62 + "b", "9lives", "x" * 38]
    names = [
        attempt_name(kind, name, n) for kind in ("FineTune", "Evaluation") for name in long for n in (1, 100)
    ]
    assert len(set(names)) == len(names)
    assert all(len(name) <= LONGEST and name[0].isalpha() and name[-1].isalnum() for name in names)


@pytest.mark.parametrize(
    ("kind", "name", "values", "words"),
    [
        ("FineTune", "a.b", finetune()["spec"], "not a DNS label"),
        ("FineTune", "x", {"run": {}}, "spec.run: data is missing"),
        (
            "FineTune",
            "x",
            finetune(pool="x" * 70)["spec"],
            "spec.pool: String should have at most 63 characters",
        ),
        ("Evaluation", "x", {}, "spec.model is missing"),
    ],
)
def test_a_spec_is_refused_in_one_line(kind: str, name: str, values: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words) as caught:
        read_spec(kind, name, values)
    assert "\n" not in str(caught.value)


def test_a_runtime_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"runtime r: spec\.image is missing"):
        read_runtime({"metadata": {"name": "r"}, "spec": {"pools": [{"name": "a"}]}})


def test_quantities():
    assert [whole_cpus(quantity) for quantity in ("500m", "2", "7.5")] == [1, 2, 8]
    assert object_store("2Gi") == str(2**30) and object_store("64Mi") == str(80 * 10**6)
    assert object_store("1.5G") == str(750 * 10**6) and object_store("16Gi") == str(2**33)
    with pytest.raises(ValueError, match="1Q"):
        whole_cpus("1Q")
