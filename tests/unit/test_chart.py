"""The chart as Helm renders it, without a cluster; tests/cluster installs it on a real one."""

from __future__ import annotations

import base64
import json
import tomllib
from pathlib import Path

import pytest
import yaml
from chart import (
    CHART,
    EVERYTHING,
    NAMESPACE,
    REPOSITORY,
    Object,
    helm,
    one,
    render,
    runtime_of,
    template,
    version,
    with_helm,
)

from medsd_ray.spec.runtime import RuntimeSpec

__all__ = ["with_helm"]
pytestmark = pytest.mark.usefixtures("with_helm")

READ = {"get", "list", "watch"}
NAMESPACED = {
    ("medsd.io", "finetunes"): READ | {"delete"},
    ("medsd.io", "studies"): READ | {"delete"},
    ("medsd.io", "evaluations"): READ | {"delete"},
    ("medsd.io", "finetunes/status"): {"patch"},
    ("medsd.io", "studies/status"): {"patch"},
    ("medsd.io", "evaluations/status"): {"patch"},
    ("ray.io", "rayjobs"): READ | {"create", "delete"},
    ("ray.io", "rayclusters"): {"patch"},
    ("", "configmaps"): {"get", "create", "patch"},
    ("", "pods"): {"list", "watch"},
    ("", "events"): READ | {"create", "patch"},
}
CLUSTER_WIDE = {
    ("medsd.io", "runtimes"): READ,
    ("apiextensions.k8s.io", "customresourcedefinitions"): READ,
    ("", "namespaces"): {"list", "watch"},
}


def rules(role: Object) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        assert not {"*"} & {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


def pod_specs(objects: list[Object]) -> dict[str, Object]:
    """Every pod that the chart makes or has made, KubeRay's autoscaler container included."""
    found = {}
    for it in objects:
        where, spec = f"{it['kind']}/{it['metadata']['name']}", it.get("spec", {})
        if it["kind"] == "Pod":
            found[where] = spec
        elif it["kind"] in ("Deployment", "Job"):
            found[where] = spec["template"]["spec"]
        elif it["kind"] == "RayCluster":
            autoscaler = {"name": "autoscaler"} | spec["autoscalerOptions"]
            head = spec["headGroupSpec"]["template"]["spec"]
            found[f"{where}/head"] = head | {"containers": [*head["containers"], autoscaler]}
            found |= {
                f"{where}/{group['groupName']}": group["template"]["spec"]
                for group in spec["workerGroupSpecs"]
            }
    return found


def test_lint():
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("sets", "adds", "removes"),
    [
        ((), (), ()),
        (EVERYTHING, ("RayCluster", "ServiceMonitor", "PodMonitor"), ()),
        (("rayCluster.enabled=true",), ("RayCluster",), ()),
        (("networkPolicy.enabled=false",), (), ("NetworkPolicy",)),
        (("operator.pollKey.secretName=own",), (), ("Secret",)),
        (("serviceMonitor.enabled=true", "serviceMonitor.labels.release=prom"), ("ServiceMonitor",), ()),
        (("podMonitor.enabled=true", "podMonitor.labels.release=prom"), ("PodMonitor",), ()),
        (("watchNamespaces={a,b}",), ("Role", "RoleBinding"), ()),
        (("runtime.create=false",), (), ("Job", "ConfigMap")),
        (("kuberay.check=false",), (), ()),
    ],
)
def test_each_switch(sets: tuple[str, ...], adds: tuple[str, ...], removes: tuple[str, ...]):
    objects = render(*sets)
    names = [(it["kind"], it["metadata"]["name"], it["metadata"].get("namespace")) for it in objects]
    assert all(it["apiVersion"] for it in objects) and len(names) == len(set(names))
    default = {
        "ServiceAccount",
        "Deployment",
        "Service",
        "ClusterRole",
        "ClusterRoleBinding",
        "Pod",
        "Job",
        "ConfigMap",
        "NetworkPolicy",
        "Secret",
    }
    assert {kind for kind, _, _ in names} == (default | set(adds)) - set(removes)


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (("imag.tag=1",), "additional properties 'imag' not allowed"),
        (("operator.replicas=2",), "additional properties 'replicas' not allowed"),
        (("image.pullPolicy=Sometimes",), "/image/pullPolicy"),
        (("watchNamespaces=a",), "/watchNamespaces"),
        (
            ("rayCluster.pools[0].name=a", "rayCluster.pools[0].max=1"),
            "additional properties 'max' not allowed",
        ),
        (("runtime.spec.imagee=x",), "additional properties 'imagee' not allowed"),
        (
            ("runtime.spec.pools[0].name=a", "runtime.spec.pools[0].gpu=1"),
            "additional properties 'gpu' not allowed",
        ),
        (("runtime.spec.runAsUser=0",), "/runtime/spec/runAsUser"),
        (
            ("rayCluster.enabled=true", "rayCluster.pools[0].name=h100"),
            "rayCluster.pools has h100, which runtime.spec.pools lacks",
        ),
        (("watchNamespaces={a}", "runNamespaces={b}"), "runNamespaces has b, which watchNamespaces lacks"),
    ],
)
def test_wrong_values_are_refused(sets: tuple[str, ...], words: str):
    done = template(*sets)
    assert done.returncode and words in done.stderr, done.stderr


def test_the_schema_knows_every_value_and_nothing_else():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(node: Object, given: Object, where: str) -> None:
        assert node["additionalProperties"] is False, where
        assert set(node["properties"]) - {"global"} == set(given), where
        for name, value in given.items():
            inner = node["properties"][name]
            if isinstance(value, dict) and "properties" in inner:
                compare(inner, value, f"{where}.{name}")

    compare(schema, values, "values")


def test_kuberay_is_asked_for_in_words():
    done = template(api="")
    assert done.returncode and "medsd needs KubeRay's operator 1.6 or later" in done.stderr
    assert "helm install kuberay-operator" in done.stderr and "kuberay.check=false" in done.stderr
    assert template("kuberay.check=false", "crds.install=false", api="").returncode == 0


def test_every_pod_satisfies_the_restricted_pod_security_standard():
    found = pod_specs(render(*EVERYTHING))
    assert len(found) == 7, list(found)
    for where, pod in found.items():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True and security["runAsUser"] > 0, where
        assert security["seccompProfile"]["type"] == "RuntimeDefault", where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), where
        assert pod["imagePullSecrets"] == [{"name": "registry"}], where
        allowed = {"emptyDir", "configMap", "projected"}
        assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"]), where
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False and own["capabilities"] == {"drop": ["ALL"]}, (
                where
            )
            assert not {"privileged", "runAsUser", "procMount"} & set(own), where
            assert container["resources"]["requests"] and container["resources"]["limits"], where


def test_the_operator():
    deployment = one(render("watchNamespaces={a,b}"), "Deployment", "medsd-operator", NAMESPACE)["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", "medsd_ray.operator"]
    assert {"name": "MEDSD_WATCH_NAMESPACES", "value": "a,b"} in container["env"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"health": 8080, "metrics": 9090}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "health"}
    selector = deployment["selector"]["matchLabels"]
    assert selector.items() <= deployment["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("own", [True, False])
def test_the_key_for_the_drivers_tokens_is_the_operators_alone(own: bool):
    objects = render(*(["operator.pollKey.secretName=mine", "operator.pollKey.key=poll"] if own else []))
    name, key = ("mine", "poll") if own else ("medsd-poll-key", "key")
    with_key = {
        where
        for where, pod in pod_specs(objects).items()
        if any(name in json.dumps(volume) for volume in pod["volumes"])
    }
    assert with_key == {"Deployment/medsd-operator"}
    pod = pod_specs(objects)["Deployment/medsd-operator"]
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "poll-key")
    (source,) = volume["projected"]["sources"]
    assert source == {"secret": {"name": name, "items": [{"key": key, "path": "key"}]}}
    (mount,) = (it for it in pod["containers"][0]["volumeMounts"] if it["name"] == "poll-key")
    assert mount["readOnly"] is True
    file = {"name": "MEDSD_POLL_KEY_FILE", "value": f"{mount['mountPath']}/key"}
    assert file in pod["containers"][0]["env"]
    if not own:
        secret = one(objects, "Secret", name, NAMESPACE)
        assert len(base64.b64decode(secret["data"][key])) == 64
        # What runs on without the operator is taken over by the next installation, which has to know its
        # token.
        assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


@pytest.mark.parametrize(
    ("sets", "namespaces"),
    [
        ((), [NAMESPACE]),
        (("runNamespaces={a,b}",), ["a", "b"]),
        (("watchNamespaces={a,b}",), ["a", "b"]),
        (("watchNamespaces={a,b}", "runNamespaces={b}"), ["b"]),
        (("runNamespaces={a}", "runtime.spec.allowedNamespaces={c}"), ["c"]),
    ],
)
def test_the_runtime_is_for_the_namespaces_of_the_runs(sets: tuple[str, ...], namespaces: list[str]):
    assert RuntimeSpec.model_validate(runtime_of(render(*sets))["spec"]).allowedNamespaces == namespaces


def test_code_can_be_mounted_into_all_that_runs_the_image(tmp_path: Path):
    volume, mount, env = (
        {"name": "code", "emptyDir": {}},
        {"name": "code", "mountPath": "/code"},
        {"name": "A", "value": "b"},
    )
    values = tmp_path / "values.yaml"
    values.write_text(
        yaml.safe_dump({"operator": {"env": [env], "extraVolumes": [volume], "extraVolumeMounts": [mount]}})
    )
    found = pod_specs(render(values=values))
    assert set(found) == {"Deployment/medsd-operator", "Job/medsd-runtime", "Pod/medsd-check"}
    for pod in found.values():
        assert volume in pod["volumes"]
        assert mount in pod["containers"][0]["volumeMounts"] and env in pod["containers"][0]["env"]


def test_rights_in_all_namespaces():
    objects = render()
    assert rules(one(objects, "ClusterRole", "medsd-operator")) == CLUSTER_WIDE | NAMESPACED
    binding = one(objects, "ClusterRoleBinding", "medsd-operator")
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "medsd-operator", "namespace": NAMESPACE}
    ]


def test_rights_in_the_watched_namespaces_alone():
    objects = render("watchNamespaces={a,b}")
    assert rules(one(objects, "ClusterRole", "medsd-operator")) == CLUSTER_WIDE
    for namespace in ("a", "b"):
        assert rules(one(objects, "Role", "medsd-operator", namespace)) == NAMESPACED
        binding = one(objects, "RoleBinding", "medsd-operator", namespace)
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "medsd-operator", "namespace": NAMESPACE}
        ]
        assert binding["roleRef"]["kind"] == "Role"


@pytest.mark.parametrize(
    ("sets", "namespaces"),
    [
        ((), {NAMESPACE}),
        (("watchNamespaces={a,b}",), {"a", "b"}),
        (("watchNamespaces={a,b}", "runNamespaces={b}"), {"b"}),
        (("runNamespaces={a,c}",), {"a", "c"}),
    ],
)
def test_the_runs_account_has_no_rights_where_runs_are(sets: tuple[str, ...], namespaces: set[str]):
    objects = render(*sets)
    accounts = [
        it for it in objects if it["kind"] == "ServiceAccount" and it["metadata"]["name"] == "medsd-worker"
    ]
    assert {it["metadata"]["namespace"] for it in accounts} == namespaces
    assert all(it["automountServiceAccountToken"] is False for it in accounts)
    bound = {
        subject["name"] for it in objects if it["kind"].endswith("Binding") for subject in it["subjects"]
    }
    assert bound == {"medsd-operator", "medsd-runtime"}


def test_users_get_their_runs_with_view_and_edit():
    objects = render()
    view, edit = one(objects, "ClusterRole", "medsd-view"), one(objects, "ClusterRole", "medsd-edit")
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    assert set(rules(view)) == {
        ("medsd.io", name)
        for name in (
            "finetunes",
            "finetunes/status",
            "studies",
            "studies/status",
            "evaluations",
            "evaluations/status",
            "runtimes",
        )
    }
    assert all(verbs == READ for verbs in rules(view).values())
    writing = {"create", "update", "patch", "delete", "deletecollection"}
    assert rules(edit) == {("medsd.io", kind): writing for kind in ("finetunes", "studies", "evaluations")}


def test_crds_are_upgraded_and_kept():
    found = {
        it["metadata"]["name"]: it for it in render(crds=True) if it["kind"] == "CustomResourceDefinition"
    }
    files = [yaml.safe_load(path.read_text()) for path in (CHART / "files" / "crds").glob("*.yaml")]
    assert set(found) == {it["metadata"]["name"] for it in files} and len(files) == 4
    for file in files:
        crd = found[file["metadata"]["name"]]
        assert crd["spec"] == file["spec"] and "helm.sh/hook" not in crd["metadata"]["annotations"]
        assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_nothing_can_hold_up_an_uninstall():
    for it in render(*EVERYTHING, crds=True):
        hook = it["metadata"].get("annotations", {}).get("helm.sh/hook", "")
        assert "delete" not in hook and "finalizers" not in it["metadata"], it["metadata"]


def test_the_runtime_is_applied_after_install_and_upgrade():
    objects = render("image.repository=registry.example.com/medsd", "image.pullSecrets={registry}")
    job = one(objects, "Job", "medsd-runtime")
    annotations = job["metadata"]["annotations"]
    assert annotations["helm.sh/hook"] == "post-install,post-upgrade"
    assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    assert "Runtime" not in {it["kind"] for it in objects}  # Helm itself neither makes it anew nor deletes it
    runtime = runtime_of(objects)
    assert (runtime["apiVersion"], runtime["kind"], runtime["metadata"]["name"]) == (
        "medsd.io/v1alpha1",
        "Runtime",
        "default",
    )
    spec = RuntimeSpec.model_validate(runtime["spec"])
    assert (
        spec.image == f"registry.example.com/medsd:{version()}-cuda"
        and spec.serviceAccountName == "medsd-worker"
    )
    assert (
        spec.imagePullSecrets == ["registry"]
        and spec.rayVersion == RuntimeSpec.model_fields["rayVersion"].default
    )
    role = one(objects, "ClusterRole", "medsd-runtime")["rules"]
    assert role == [
        {
            "apiGroups": ["medsd.io"],
            "resources": ["runtimes"],
            "resourceNames": ["default"],
            "verbs": ["create", "patch"],
        }
    ]


def test_what_the_values_say_of_the_runtime_wins():
    objects = render("runtime.spec.image=own:1", "runtime.spec.serviceAccountName=own", "runtime.name=large")
    runtime = runtime_of(objects)
    assert runtime["metadata"]["name"] == "large"
    assert (runtime["spec"]["image"], runtime["spec"]["serviceAccountName"]) == ("own:1", "own")


def test_versions_are_the_projects():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == version()
    locked = tomllib.loads((REPOSITORY / "uv.lock").read_text())["package"]
    ray = next(package["version"] for package in locked if package["name"] == "ray")
    assert yaml.safe_load((CHART / "values.yaml").read_text())["runtime"]["spec"]["rayVersion"] == ray


def test_helm_test_asks_the_operators_service():
    objects = render()
    pod = one(objects, "Pod", "medsd-check")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    script, service = pod["spec"]["containers"][0]["args"]
    assert script.strip() == (CHART / "files" / "check.py").read_text().strip()
    assert service == f"{one(objects, 'Service', 'medsd-operator')['metadata']['name']}.{NAMESPACE}.svc"
