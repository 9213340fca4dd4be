"""The chart's dashboard, as Helm renders it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from chart import CHART, NAMESPACE, Object, helm, one, render, template, with_helm

__all__ = ["with_helm"]
pytestmark = pytest.mark.usefixtures("with_helm")

ON = (
    "dashboard.enabled=true",
    "dashboard.root=s3://bucket/studies",
    "dashboard.token.secretName=dashboard-token",
)
NAME = "medsd-dashboard"


def container(objects: list[Object]) -> Object:
    (found,) = one(objects, "Deployment", NAME)["spec"]["template"]["spec"]["containers"]
    return found


def environment(objects: list[Object]) -> dict[str, Object]:
    return {entry["name"]: entry for entry in container(objects)["env"]}


def test_it_is_off_unless_asked_for():
    assert not [it for it in render() if it["metadata"]["name"] == NAME]


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (ON[:1] + ON[2:], "dashboard.root is empty"),
        (ON[:2], "dashboard.token.secretName is empty"),
        ((*ON, "dashboard.token.value=secret"), "additional properties 'value' not allowed"),
        ((*ON, "dashboard.replicas=2"), "additional properties 'replicas' not allowed"),
        ((*ON, "dashboard.token.secretName=No_Name"), "/dashboard/token/secretName"),
    ],
)
def test_wrong_values_are_refused(sets: tuple[str, ...], words: str):
    done = template(*sets)
    assert done.returncode and words in done.stderr, done.stderr


def test_it_serves_the_root_with_the_secrets_token():
    objects = render(*ON)
    found = container(objects)
    assert found["command"] == [
        "medsd",
        "dashboard",
        "s3://bucket/studies",
        "--host",
        "0.0.0.0",
        "--port",
        "8650",
    ]
    token = {"secretKeyRef": {"name": "dashboard-token", "key": "token"}}
    assert environment(objects)["MEDSD_DASHBOARD_TOKEN"] == {
        "name": "MEDSD_DASHBOARD_TOKEN",
        "valueFrom": token,
    }
    assert "dashboard-token" not in " ".join(found["command"])
    assert found["securityContext"]["readOnlyRootFilesystem"] is True
    assert found["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
    assert found["resources"]["limits"] == {"cpu": "2", "memory": "1Gi"}
    service, deployment = one(objects, "Service", NAME), one(objects, "Deployment", NAME)
    assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for selector in (service["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"]):
        assert selector.items() <= labels.items() and selector["app.kubernetes.io/component"] == "dashboard"
    operator = one(objects, "Service", "medsd-operator")["spec"]["selector"]
    assert not operator.items() <= labels.items()


def test_its_service_account_has_no_rights():
    objects = render(*ON, "dashboard.serviceAccountAnnotations.role=reader")
    account = one(objects, "ServiceAccount", NAME)
    assert account["automountServiceAccountToken"] is False and account["metadata"]["annotations"] == {
        "role": "reader"
    }
    pod = one(objects, "Deployment", NAME)["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == NAME and pod["automountServiceAccountToken"] is False
    assert NAME not in {
        subject["name"] for it in objects if it["kind"].endswith("Binding") for subject in it["subjects"]
    }


def test_it_reads_the_storage_of_the_runs():
    runtime = (
        "runtime.spec.s3.endpoint=http://minio:9000",
        "runtime.spec.s3.region=eu-west-1",
        "runtime.spec.s3.secretName=keys",
    )
    found = environment(render(*ON, *runtime))
    assert (
        found["AWS_ENDPOINT_URL"]["value"] == "http://minio:9000"
        and found["AWS_REGION"]["value"] == "eu-west-1"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert found[name]["valueFrom"] == {"secretKeyRef": {"name": "keys", "key": name}}
    found = environment(render(*ON, *runtime, "dashboard.s3SecretName=keys-that-read"))
    assert found["AWS_ACCESS_KEY_ID"]["valueFrom"]["secretKeyRef"]["name"] == "keys-that-read"
    assert "AWS_ACCESS_KEY_ID" not in environment(render(*ON))  # a cloud identity, by the service account


def test_it_is_where_the_runs_secret_is():
    objects = render(*ON, "watchNamespaces={a,b}", "runNamespaces={b}")
    for kind in ("ServiceAccount", "Deployment", "Service"):
        assert one(objects, kind, NAME)["metadata"]["namespace"] == "b"
    assert one(render(*ON), "Service", NAME)["metadata"]["namespace"] == NAMESPACE


def test_a_folder_can_be_mounted(tmp_path: Path):
    volume = {"name": "studies", "persistentVolumeClaim": {"claimName": "studies", "readOnly": True}}
    mount = {"name": "studies", "mountPath": "/studies", "readOnly": True}
    values = {
        "enabled": True,
        "root": "/studies",
        "token": {"secretName": "t"},
        "extraVolumes": [volume],
        "extraVolumeMounts": [mount],
    }
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump({"dashboard": values}))
    objects = render(values=file)
    assert mount in container(objects)["volumeMounts"]
    assert volume in one(objects, "Deployment", NAME)["spec"]["template"]["spec"]["volumes"]


def test_who_may_open_it():
    closed = one(render(*ON, "networkPolicy.enabled=true"), "NetworkPolicy", NAME)["spec"]
    assert closed["policyTypes"] == ["Ingress"] and "ingress" not in closed
    match = "networkPolicy.dashboard[0].namespaceSelector.matchLabels.name=ingress"
    (rule,) = one(render(*ON, "networkPolicy.enabled=true", match), "NetworkPolicy", NAME)["spec"]["ingress"]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8650}]
    assert not [it for it in render("networkPolicy.enabled=true") if it["metadata"]["name"] == NAME]


def test_the_notes_say_how_to_open_it(tmp_path: Path):
    chart = shutil.copytree(CHART, tmp_path / "medsd")
    (chart / "templates" / "NOTES.txt").rename(chart / "notes")  # Helm shows its notes only with a cluster
    (chart / "templates" / "notes.yaml").write_text('notes: {{ tpl (.Files.Get "notes") . | toJson }}')
    given = [
        word for value in (*ON, "dashboard.token.key=a.b", "kuberay.check=false") for word in ("--set", value)
    ]
    done = helm(
        "template",
        "medsd",
        str(chart),
        "-n",
        NAMESPACE,
        "--kube-version",
        "1.34",
        "--show-only",
        "templates/notes.yaml",
        *given,
    )
    assert done.returncode == 0, done.stderr
    notes = yaml.safe_load(done.stdout)["notes"]
    assert f"kubectl -n {NAMESPACE} port-forward service/medsd-dashboard 8650\n" in notes
    assert r"get secret dashboard-token -o jsonpath='{.data.a\.b}' | base64 -d" in notes
