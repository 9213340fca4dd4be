"""Who may do what: the operator what it needs and nothing else, a run's pods nothing, a researcher no
Runtime.
"""

from __future__ import annotations

import json

import pytest
from cluster.kube import Cluster

OPERATOR = "system:serviceaccount:medsd-system:medsd-operator"
WORKER = "system:serviceaccount:research:medsd-worker"
READ = {"get", "list", "watch"}
OPERATOR_MAY = {
    ("medsd.io", "runtimes"): READ,
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
    ("", "namespaces"): {"list", "watch"},
    ("apiextensions.k8s.io", "customresourcedefinitions"): READ,
}


def rights(cluster: Cluster, account: str, namespace: str) -> dict[tuple[str, str], set[str]]:
    """(API group, resource) -> verbs, as the API server itself lists them, without what every account may."""
    kind = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    command = (
        "create",
        "--raw",
        "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
        "-f",
        "-",
        f"--as={account}",
    )
    rules = json.loads(cluster.kubectl(*command, input=json.dumps(kind)).stdout)["status"]["resourceRules"]
    found: dict[tuple[str, str], set[str]] = {}
    for rule in rules:
        assert not rule.get("resourceNames"), rule
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                if group not in (
                    "authorization.k8s.io",
                    "authentication.k8s.io",
                ):  # what every account may ask of itself
                    found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


@pytest.mark.parametrize("namespace", ["research", "medsd-system", "kube-system"])
def test_the_operator_may_do_what_it_needs_and_nothing_else(
    cluster: Cluster, installed: None, namespace: str
):
    assert rights(cluster, OPERATOR, namespace) == OPERATOR_MAY


def test_a_runs_pods_may_do_nothing(cluster: Cluster, installed: None):
    assert rights(cluster, WORKER, "research") == {}


@pytest.mark.parametrize(
    ("account", "verb", "what", "namespace", "allowed"),
    [
        (OPERATOR, "create", "rayjobs.ray.io", "research", True),
        (OPERATOR, "get", "secrets", "research", False),
        (OPERATOR, "list", "configmaps", "research", False),
        (OPERATOR, "list", "pods", "research", True),
        (OPERATOR, "get", "pods", "research", False),
        (OPERATOR, "patch", "finetunes.medsd.io", "research", False),
        (OPERATOR, "create", "pods", "research", False),
        (OPERATOR, "create", "pods/exec", "research", False),
        (WORKER, "get", "finetunes.medsd.io", "research", False),
        (WORKER, "get", "secrets", "research", False),
        ("researcher", "create", "finetunes.medsd.io", "research", True),
        ("researcher", "patch", "finetunes.medsd.io/status", "research", False),
        ("researcher", "create", "runtimes.medsd.io", "research", False),
        ("researcher", "create", "finetunes.medsd.io", "medsd-system", False),
    ],
)
def test_can_i(
    cluster: Cluster, installed: None, account: str, verb: str, what: str, namespace: str, allowed: bool
):
    if (
        account == "researcher"
    ):  # whoever may edit a namespace: Kubernetes' own role, which the chart's are aggregated to
        role = ("--dry-run=client", "-o", "yaml", "--clusterrole=edit", "--user=researcher", "-n", "research")
        cluster.kubectl(
            "apply", "-f", "-", input=cluster.kubectl("create", "rolebinding", "researcher", *role).stdout
        )
    resource, _, subresource = what.partition("/")
    who = ("-n", namespace, f"--as={account}", f"--subresource={subresource}")
    asked = cluster.kubectl("auth", "can-i", verb, resource, *who, check=False)
    assert asked.stdout.strip().splitlines()[-1] == ("yes" if allowed else "no"), asked.stderr
