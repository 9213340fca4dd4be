"""Fixtures of the tests on a real cluster: the cluster itself, S3 and KubeRay in it, medsd's chart, and data
for its runs.

The cluster is the one of MEDSD_TEST_KUBECONFIG, or one that up.sh starts on this machine, for which it must
be root. Any other cluster needs KubeRay, an image with medsd, and an S3 server that both its pods and this
machine reach: name the chart's values in MEDSD_TEST_VALUES, and the server by the usual AWS_* variables.
"""

from __future__ import annotations

import os
import shutil
import string
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from allowed_skips import NO_CLUSTER, no_namespaces
from cluster.kube import Cluster, Object, Run, local_cluster
from cluster.runs import RESEARCH, Data, finetune, write_data
from programs import FOLDER, KUBERAY_CRDS, missing
from s3_server import ACCESS_KEY, SECRET_KEY, S3Server, build_versitygw

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
SYSTEM = "medsd-system"
PROGRAMS = ("etcd", "kube-apiserver", "kubelet", "coredns", "ray-operator", "kubectl", "helm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # each wait has a limit of its own; this one holds the first build of Kubernetes too
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if given := os.environ.get("MEDSD_TEST_KUBECONFIG"):
        yield Cluster(Path(given))
        return
    if reason := why_none():
        pytest.skip(f"{NO_CLUSTER}: {reason}. Or set MEDSD_TEST_KUBECONFIG")
    with local_cluster() as started:
        yield started


def why_none() -> str | None:
    """Why no cluster can be started here."""
    if no_namespaces():
        return "it needs root, and the right to make namespaces"
    if "bookworm" not in Path("/etc/os-release").read_text():
        return "the pods are Debian 12 and take Python from this machine, which is not"
    if missing(*PROGRAMS) and not shutil.which("go"):
        return "there is no Go to build Kubernetes with"
    for folder in (REPOSITORY, REPOSITORY / ".venv", Path(sys.base_prefix)):
        if folder.stat().st_mode & 0o005 != 0o005:
            return f"other users cannot read {folder}, and the pods are not root"
    return None


def fill(name: str, **words: object) -> str:
    """A file of this folder with its $words put in."""
    return string.Template((HERE / name).read_text()).substitute(
        {key: str(word) for key, word in words.items()}
    )


@pytest.fixture(scope="session")
def ours() -> bool:
    """Whether the cluster's KubeRay, S3 and values are the ones of this folder."""
    return "MEDSD_TEST_VALUES" not in os.environ


@pytest.fixture(scope="session")
def kuberay(cluster: Cluster, ours: bool) -> None:
    if not ours:
        return
    cluster.kubectl("apply", "--server-side", "-f", str(KUBERAY_CRDS))
    cluster.kubectl("apply", "-f", "-", input=fill("manifests/kuberay.yaml", cache=FOLDER))
    cluster.kubectl("rollout", "status", "-n", "kuberay", "deployment/kuberay-operator", "--timeout=300s")


@pytest.fixture(scope="session")
def s3_in_cluster(cluster: Cluster, ours: bool) -> Iterator[S3Server]:
    """The S3 server that the pods use, with this process's environment set for it."""
    server = start_s3(cluster) if ours else s3_of_environment()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


def start_s3(cluster: Cluster) -> S3Server:
    binary, reason = build_versitygw()
    assert binary, reason
    words = {
        "folder": binary.parent,
        "binary": binary.name,
        "access_key": ACCESS_KEY,
        "secret_key": SECRET_KEY,
    }
    cluster.kubectl("apply", "-f", "-", input=fill("manifests/s3.yaml", **words))
    cluster.kubectl("rollout", "status", "-n", "s3", "deployment/s3", "--timeout=300s")
    service = cluster.get("service", "s3", "s3")
    assert service is not None
    return S3Server(
        "versitygw in the cluster", f"http://{service['spec']['clusterIP']}:7070", ACCESS_KEY, SECRET_KEY
    )


def s3_of_environment() -> S3Server:
    values = [os.environ[name] for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    return S3Server("the S3 server of AWS_ENDPOINT_URL", *values)


@pytest.fixture(scope="session")
def values(
    cluster: Cluster, ours: bool, s3_in_cluster: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The file of the chart's values; where the runs are, their Secret is too."""
    if not ours:
        return Path(os.environ["MEDSD_TEST_VALUES"])
    path = tmp_path_factory.mktemp("chart") / "values.yaml"
    path.write_text(fill("values.yaml", repository=REPOSITORY, python=sys.base_prefix))
    return path


@pytest.fixture(scope="session")
def chart(cluster: Cluster, kuberay: None, s3_in_cluster: S3Server, values: Path) -> Callable[..., None]:
    """`chart("install")` or `chart("upgrade", "--set", ...)`: Helm's verb on medsd's chart, waiting for its
    pods.
    """

    def helm(verb: str, *options: str) -> None:
        where = (
            "medsd",
            str(REPOSITORY / "helm" / "medsd"),
            "-n",
            SYSTEM,
            "--create-namespace",
            "-f",
            str(values),
        )
        cluster.helm(verb, *where, "--wait", "--timeout", "5m", *options)

    return helm


@pytest.fixture(scope="session")
def installed(cluster: Cluster, s3_in_cluster: S3Server, chart: Callable[..., None]) -> None:
    """medsd on the cluster: what an earlier test run may have left is removed first."""
    cluster.helm("uninstall", "medsd", "-n", SYSTEM, "--ignore-not-found", "--wait")
    cluster.kubectl("delete", "namespace", RESEARCH, "--ignore-not-found")
    keys = {"AWS_ACCESS_KEY_ID": s3_in_cluster.access_key, "AWS_SECRET_ACCESS_KEY": s3_in_cluster.secret_key}
    secret = {"metadata": {"name": "s3-credentials", "namespace": RESEARCH}, "stringData": keys}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": RESEARCH}},
        {"apiVersion": "v1", "kind": "Secret", **secret},
    )
    chart("install")


@pytest.fixture(scope="session")
def data(s3_in_cluster: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Data:
    bucket = f"medsd-{uuid.uuid4().hex[:12]}"
    s3_in_cluster.client().create_bucket(Bucket=bucket)
    return write_data(f"s3://{bucket}", tmp_path_factory.mktemp("model"))


@pytest.fixture
def start(cluster: Cluster, installed: None, data: Data) -> Iterator[Callable[..., Run]]:
    """`start(name, training={...}, ...)`: a FineTune of two workers, which the test's end deletes."""
    started: list[Run] = []

    def apply(name: str, *, training: Object, spec: Object | None = None, **run: object) -> Run:
        values = finetune(name, data, training, run)
        values["spec"] |= spec or {}
        started.append(Run(cluster, name, RESEARCH))
        cluster.apply(values)
        return started[-1]

    yield apply
    for run in started:
        run.delete()


@pytest.fixture
def runtime(cluster: Cluster, installed: None) -> Iterator[Callable[[str, Object], str]]:
    """`runtime(name, changes)`: the default runtime with some of its fields changed."""
    made: list[str] = []

    def make(name: str, changes: Object) -> str:
        spec = yaml.safe_load(cluster.kubectl("get", "runtime", "default", "-o", "yaml").stdout)["spec"]
        meta = {"apiVersion": "medsd.io/v1alpha1", "kind": "Runtime", "metadata": {"name": name}}
        cluster.apply({**meta, "spec": spec | changes})
        made.append(name)
        return name

    yield make
    for name in made:
        cluster.kubectl("delete", "runtime", name)
