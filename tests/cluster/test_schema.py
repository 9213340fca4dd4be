"""The CRDs, asked of a real API server: what is refused and in which words, what is filled in, what may not
change.

They are installed under a group of their own, so that no operator takes the objects for real ones.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import ApiException, CoreV1Api, CustomObjectsApi
from kubernetes.config import new_client_from_config
from specs import BAD, GOOD, RUN, changed, task

from medsd_ray.spec.load import parse_run
from medsd_ray.spec.objects import PLURALS, EvaluationSpec, FineTuneSpec, StudyJobSpec
from medsd_ray.spec.runtime import RuntimeSpec
from medsd_ray.spec.status import Phase

K8S = Path(__file__).parents[2] / "k8s"
GROUP, VERSION = "medsd.test", "v1alpha1"
REPORT = {"real": "s3://bucket/shards", "prompts": ["A chest x-ray"]}
STUDY = {
    "output": "s3://bucket/study",
    "shards": "s3://bucket/shards",
    "run": {"components": {"unet": "full"}, "training": {"max_steps": 10, "global_batch_size": 2}},
    "space": {"components.text_encoder": {"choice": ["frozen", {"method": "full", "learning_rate": 1e-4}]}},
}
SPECS: dict[str, dict[str, Any]] = {
    "Runtime": {"image": "medsd:1", "pools": [{"name": "cpu"}]},
    "FineTune": {"run": RUN},
    "Study": {"study": STUDY},
    "Evaluation": {"model": "s3://bucket/run", "report": REPORT, "output": "s3://bucket/evaluation"},
}


def own_group(path: Path) -> str:
    return (
        path.read_text()
        .replace("medsd.io/v1alpha1", f"{GROUP}/{VERSION}")
        .replace(".medsd.io", f".{GROUP}")
        .replace("group: medsd.io", f"group: {GROUP}")
    )


class Server:
    """The API server, asked in a namespace of this file's own; each answer is the object, or the words of its
    refusal.
    """

    def __init__(self, kubeconfig: Path, namespace: str):
        self.api, self.namespace = CustomObjectsApi(new_client_from_config(str(kubeconfig))), namespace

    def create(self, kind: str, spec: dict[str, Any], name: str = "x", keep: bool = False) -> dict[str, Any]:
        value = {"apiVersion": f"{GROUP}/{VERSION}", "kind": kind, "metadata": {"name": name}, "spec": spec}
        options = {"field_validation": "Strict"} | ({} if keep else {"dry_run": "All"})
        return self._call(
            self.api.create_namespaced_custom_object,
            self.api.create_cluster_custom_object,
            kind,
            value,
            **options,
        )

    def patch(self, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        patch, options = {"spec": spec}, {"name": name, "field_validation": "Strict"}
        return self._call(
            self.api.patch_namespaced_custom_object,
            self.api.patch_cluster_custom_object,
            kind,
            patch,
            **options,
        )

    def set_status(self, kind: str, name: str, status: dict[str, Any]) -> dict[str, Any]:
        call = self.api.patch_namespaced_custom_object_status
        return self._call(call, call, kind, {"status": status}, name=name)

    def _call(
        self, namespaced: Callable, cluster: Callable, kind: str, body: dict[str, Any], **options: Any
    ) -> dict[str, Any]:
        where = {
            "group": GROUP,
            "version": VERSION,
            "plural": PLURALS.get(kind, "runtimes"),
            "body": body,
            **options,
        }
        try:
            return cluster(**where) if kind == "Runtime" else namespaced(namespace=self.namespace, **where)
        except ApiException as error:
            raise Refused(json.loads(error.body)["message"]) from None


class Refused(Exception):
    pass


@pytest.fixture(scope="module")
def server(cluster) -> Iterator[Server]:
    crds = "\n---\n".join(own_group(path) for path in sorted((K8S / "crds").glob("*.yaml")))
    namespace = f"schema-{uuid.uuid4().hex[:8]}"
    core = CoreV1Api(new_client_from_config(str(cluster.kubeconfig)))
    core.create_namespace({"metadata": {"name": namespace}})
    try:
        cluster.kubectl("apply", "--server-side", "-f", "-", input=crds)
        names = [f"crd/{value['metadata']['name']}" for value in yaml.safe_load_all(crds)]
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", *names)
        yield Server(cluster.kubeconfig, namespace)
    finally:
        cluster.kubectl("delete", "-f", "-", "--ignore-not-found", "--wait=false", input=crds)
        core.delete_namespace(namespace)


@pytest.mark.parametrize("name", ["runtime", "finetune", "study", "evaluation"])
@pytest.mark.parametrize("verb", [("create",), ("apply", "--server-side")], ids=" ".join)
def test_the_samples_are_taken_by_kubectl(server: Server, cluster, name: str, verb: tuple[str, ...]):
    sample = own_group(K8S / f"samples/{name}.yaml")
    made = cluster.kubectl(
        *verb, "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-", input=sample
    )
    assert json.loads(made.stdout)["kind"].lower() == name


@pytest.mark.parametrize("changes", GOOD, ids=str)
def test_a_good_run_is_taken_and_stays_what_it_was(server: Server, changes: dict[str, Any]):
    sent = changed(RUN, changes)
    kept = server.create("FineTune", {"run": sent})["spec"]["run"]
    assert parse_run({"name": "x", **kept}) == parse_run({"name": "x", **sent})


@pytest.mark.parametrize(("changes", "words"), BAD, ids=lambda value: str(value)[:60])
def test_a_bad_run_is_refused_in_words(server: Server, changes: dict[str, Any], words: str):
    with pytest.raises(Refused, match=words):
        server.create("FineTune", {"run": changed(RUN, changes)})


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("FineTune", {"run.trainin": {}}, 'unknown field "spec.run.trainin"'),
        ("FineTune", {"run.training.learning_rat": 1e-4}, 'unknown field "spec.run.training.learning_rat"'),
        ("FineTune", {"run.name": "x"}, 'unknown field "spec.run.name"'),
        ("FineTune", {"gpus": 2}, 'unknown field "spec.gpus"'),
        ("FineTune", {"run.output": None}, r"spec.run.output: Required value"),
        (
            "FineTune",
            {"run.components.unet": "full"},
            "spec.run.components.unet in body must be of type object",
        ),
        (
            "FineTune",
            {"report": REPORT}
            | {f"run.{name}": value for name, value in task("segmenter", mask="lungs").items()},
            "report.prompts are needed where the run has components",
        ),
        (
            "Evaluation",
            {"report": {"real": "s3://b/s"}, "base": "medsd-small"},
            "base is of models that make images",
        ),
        ("FineTune", {"run.output": "/tmp/run"}, "run.output must be an s3:// address"),
        ("FineTune", {"run.data.train": "latents"}, "run.data.train must be an s3:// address"),
        (
            "FineTune",
            {"run.data": {"sources": [{"shards": "latents"}]}},
            "run.data.sources: their shards must",
        ),
        (
            "FineTune",
            {"report": {"real": "s3://b/s", "prompts": []}},
            "report.prompts are needed where the run has components",
        ),
        ("FineTune", {"report": {"real": "s3://b/s", "prompts": ["two\nlines"]}}, "spec.report.prompts"),
        ("FineTune", {"report": {**REPORT, "guidanceScale": 0.5}}, "spec.report.guidanceScale"),
        ("Study", {"study.evaluation": {"guidance_scale": 0.5}}, "spec.study.evaluation.guidance_scale"),
        ("Evaluation", {"report": {**REPORT, "guidanceScale": 0}}, "spec.report.guidanceScale"),
        ("FineTune", {"retries.infrastructure": -1}, "spec.retries.infrastructure"),
        ("FineTune", {"runtime": "No_Name"}, "spec.runtime"),
        ("Study", {"study.output": "out"}, "study.output must be an s3:// address"),
        ("Study", {"study.shards": "out"}, "study.shards must be an s3:// address"),
        (
            "Study",
            {"study.space": {"resources.num_workers": {"choice": [1, 2]}}},
            "the trials share one cluster",
        ),
        (
            "Study",
            {"study.space": {"a": {"uniform": [0, 1], "loguniform": [1, 2]}}},
            "give one of choice, uniform and loguniform",
        ),
        (
            "Study",
            {"study.space": {"a": {"loguniform": [0.0, 1.0]}}},
            "loguniform: the first number must be above 0",
        ),
        ("Study", {"study.search": {"searcher": "tpe"}}, "num_samples is needed by random and tpe"),
        ("Study", {"study.search": {"scheduler": "asha"}}, "grace_steps is needed by asha"),
        ("Study", {"study.metric": "beauty"}, "spec.study.metric"),
        ("Study", {"study.run": None}, "spec.study.run: Required value"),
        ("Evaluation", {"output": "out"}, "output must be an s3:// address"),
        ("Evaluation", {"model": None}, "spec.model: Required value"),
        ("Runtime", {"pools": []}, "spec.pools in body should have at least 1 items"),
        ("Runtime", {"pools": [{"name": "a"}, {"name": "a"}]}, r'spec.pools\[1\]: Duplicate value: .*"a"'),
        ("Runtime", {"pools": [{"name": "a", "memory": "1Gi"}]}, "sharedMemory must be below memory"),
        ("Runtime", {"pools": [{"name": "a", "memory": "lots"}]}, r"spec.pools\[0\].memory"),
        ("Runtime", {"s3.endpoint": "s3.example.com"}, "spec.s3.endpoint"),
        ("Runtime", {"runAsUser": 0}, "spec.runAsUser"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(server: Server, kind: str, changes: dict[str, Any], words: str):
    with pytest.raises(Refused, match=words):
        server.create(kind, changed(SPECS[kind], changes))


@pytest.mark.parametrize("kind", SPECS)
def test_a_name_is_a_dns_label(server: Server, kind: str):
    server.create(kind, SPECS[kind], name="a" * 63)
    for name in ("a" * 64, "two.parts"):
        with pytest.raises(Refused, match=r"metadata\.name must be a DNS label"):
            server.create(kind, SPECS[kind], name=name)


def test_the_defaults_are_the_models_own(server: Server):
    kept = {kind: server.create(kind, spec)["spec"] for kind, spec in SPECS.items()}
    finetune = FineTuneSpec.model_validate(changed(SPECS["FineTune"], {"run.name": "x"})).model_dump(
        mode="json", exclude_none=True
    )
    del finetune["run"]["name"]
    assert kept["FineTune"] == finetune
    study = StudyJobSpec.model_validate(changed(SPECS["Study"], {"study.name": "x"})).model_dump(
        mode="json", exclude_none=True
    )
    del study["study"]["name"]
    assert kept["Study"] == study
    for kind, model in (("Runtime", RuntimeSpec), ("Evaluation", EvaluationSpec)):
        assert kept[kind] == model.model_validate(SPECS[kind]).model_dump(mode="json", exclude_none=True)


CHANGES: dict[str, dict[str, Any]] = {  # of each field that is held, for each kind
    "FineTune": {"run": changed(RUN, {"seed": 1}), "report": REPORT},
    "Study": {"study": {**STUDY, "run": {**STUDY["run"], "objective": {"snr_gamma": 1.0}}}},
    "Evaluation": {
        "model": "s3://bucket/other",
        "base": "medsd-small",
        "report": {**REPORT, "seed": 1},
        "numWorkers": 2,
    },
}
for held in CHANGES.values():
    held |= {"runtime": "other", "pool": "other", "queue": "other", "priorityClassName": "other"}
CHANGES["Evaluation"]["output"] = "s3://bucket/other"
FREE = {
    "suspend": True,
    "retries": {"infrastructure": 9},
    "startDeadlineSeconds": 60,
    "activeDeadlineSeconds": 60,
    "ttlSecondsAfterFinished": 60,
    "stopGraceSeconds": 60,
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_an_attempt_was_made_from_is_held_from_start_to_suspension(server: Server, kind: str):
    held = CHANGES[kind]
    for phase in (None, *Phase.__args__):
        name = f"held-{phase or 'new'}".lower()
        server.create(kind, SPECS[kind], name=name, keep=True)
        if phase:
            server.set_status(kind, name, {"phase": phase})
        server.patch(kind, name, FREE)
        for field, value in held.items():
            if phase in (None, "Pending", "Suspended"):
                assert server.patch(kind, name, {field: value})["spec"][field]
            else:
                with pytest.raises(
                    Refused, match=rf"spec\.{field}: Forbidden: cannot change once started; set spec.suspend"
                ):
                    server.patch(kind, name, {field: value})


def test_a_field_that_was_set_cannot_be_taken_back_once_started(server: Server):
    server.create("FineTune", {**SPECS["FineTune"], "pool": "cpu", "report": REPORT}, name="set", keep=True)
    server.set_status("FineTune", "set", {"phase": "Running"})
    for field in ("pool", "report"):
        with pytest.raises(Refused, match=rf"spec\.{field}: Forbidden"):
            server.patch("FineTune", "set", {field: None})


def test_the_status_is_the_operators_alone(server: Server):
    server.create("FineTune", SPECS["FineTune"], name="status", keep=True)
    server.set_status("FineTune", "status", {"progress": {"step": 3}})
    with pytest.raises(Refused, match=r"status\.phase: Unsupported value: \"Sleeping\""):
        server.set_status("FineTune", "status", {"phase": "Sleeping"})
    condition = {
        "type": "Accepted",
        "status": "True",
        "reason": "Valid",
        "message": "",
        "lastTransitionTime": "yesterday",
    }
    with pytest.raises(Refused, match=r"status\.conditions\[0\]\.lastTransitionTime"):
        server.set_status("FineTune", "status", {"conditions": [condition]})
    condition["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    with pytest.raises(Refused, match=r"status\.conditions\[1\]: Duplicate value"):
        server.set_status("FineTune", "status", {"conditions": [condition, condition]})
    assert server.patch("FineTune", "status", {"suspend": True})["status"]["progress"] == {"step": 3}


def test_kubectl_shows_the_progress(server: Server, cluster):
    server.create("FineTune", SPECS["FineTune"], name="shown", keep=True)
    progress = {
        "stage": "train",
        "step": 3,
        "totalSteps": 20,
        "loss": 0.125,
        "imagesPerSecond": 4.5,
        "timeLeft": "0:01:02",
    }
    server.set_status(
        "FineTune", "shown", {"phase": "Running", "message": "step 3 of 20", "progress": progress}
    )
    for format_, message in (("", []), ("wide", ["step", "3", "of", "20"])):
        got = cluster.kubectl(
            "get",
            f"finetunes.{GROUP}",
            "shown",
            "-n",
            server.namespace,
            *(["-o", format_] if format_ else []),
        )
        header, line = got.stdout.splitlines()
        assert header.split()[:8] == ["NAME", "PHASE", "STAGE", "STEP", "TOTAL", "LOSS", "IMAGES/S", "LEFT"]
        assert line.split()[:-1] == [
            "shown",
            "Running",
            "train",
            "3",
            "20",
            "0.125",
            "4.5",
            "0:01:02",
            *message,
        ]
