"""A researcher's laptop: medsd's verbs with a kubeconfig that may do what Kubernetes' own role `edit` may,
and no more.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from cluster.kube import Cluster, Run, wait_for
from cluster.runs import RESEARCH, finetune
from command import MEDSD, assert_refused, medsd

from medsd_ray.runs.checkpoints import saved_steps
from medsd_ray.storage import open_storage

STEPS = 12
PROMPTS = ["large left pleural effusion", "no acute cardiopulmonary abnormality"]


@pytest.fixture(scope="module")
def login(cluster: Cluster, installed: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`login("anna", role="edit")`: the path of her kubeconfig, whose context has the runs' namespace."""

    def log_in(name: str, role: str | None = None) -> str:
        cluster.apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": RESEARCH}}
        )
        if role:
            words = (
                f"--clusterrole={role}",
                f"--serviceaccount={RESEARCH}:{name}",
                "-n",
                RESEARCH,
                "--dry-run=client",
                "-o",
                "yaml",
            )
            cluster.kubectl(
                "apply", "-f", "-", input=cluster.kubectl("create", "rolebinding", name, *words).stdout
            )
        values = json.loads(
            cluster.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json").stdout
        )
        values["users"][0]["user"] = {
            "token": cluster.kubectl("create", "token", name, "-n", RESEARCH).stdout.strip()
        }
        values["contexts"][0]["context"]["namespace"] = RESEARCH
        path = tmp_path_factory.mktemp(name) / "kubeconfig"
        path.write_text(json.dumps(values))
        return str(path)

    return log_in


@pytest.fixture(scope="module")
def anna(login: Callable[..., str]) -> str:
    return login("anna", role="edit")


@pytest.fixture
def run_file(cluster: Cluster, data, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """RUN.yaml of a run that is named after the test's parameter; its FineTune goes with the test."""
    name, training = request.param
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"name": name, **finetune(name, data, training, {})["spec"]["run"]}))
    yield path
    Run(cluster, name, RESEARCH).delete()


@pytest.mark.parametrize(
    "run_file", [("laptop", {"max_steps": STEPS, "global_batch_size": 64})], indirect=True
)
def test_submit_follow_and_fetch(cluster: Cluster, anna: str, run_file: Path, data, tmp_path: Path):
    def ask(*words: object) -> subprocess.CompletedProcess[str]:
        return medsd(*words, KUBECONFIG=anna)

    report = tmp_path / "report.yaml"
    report.write_text(
        yaml.safe_dump({"real": data.shards, "prompts": PROMPTS, "numImages": 8, "steps": 2, "base": False})
    )
    command = [MEDSD, "submit", str(run_file), "--pool", "cpu", "--report", str(report), "--follow"]
    follower = subprocess.Popen(
        command,
        env=os.environ | {"KUBECONFIG": anna},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        run = Run(cluster, "laptop", RESEARCH)
        wait_for("the FineTune", lambda: cluster.get("finetunes", "laptop", RESEARCH), 60)
        assert_refused(ask("submit", run_file), "laptop already", "medsd cancel laptop")
        run.wait("its first step", lambda _: run.step() >= 1, 240)
        table = ask("status").stdout.splitlines()
        assert table[0].split()[:3] == ["NAME", "PHASE", "STEP"]
        assert table[1].split()[:2] == ["laptop", "Running"] and f"/{STEPS}" in table[1]
        log = ask("logs", "laptop")
        assert log.returncode == 0 and f"/{STEPS}  loss" in log.stdout
        said, complaints = follower.communicate(timeout=400)
    finally:
        follower.kill()
    assert follower.returncode == 0, f"{said}\n{complaints}"
    assert f"step {STEPS}/{STEPS}" in said and said.count(f"done: {STEPS} steps") == 1, said

    one = ask("status", "laptop").stdout
    assert (
        one.startswith(f"laptop: Succeeded, step {STEPS}/{STEPS}")
        and "Complete" in one
        and "report.html" in one
    ), one
    wait_for("its pods to go", lambda: not run.parts("pods"), 60, run.left)
    archived = ask("logs", "laptop")
    assert f"done: {STEPS} steps" in archived.stdout and "attempt-01/driver.log" in archived.stderr
    for what, file in (("checkpoint", "COMPLETE"), ("report", "report.html")):
        assert ask("download", "laptop", tmp_path / what, "--what", what).returncode == 0
        assert (tmp_path / what / file).is_file()

    assert "laptop deleted" in ask("cancel", "laptop").stdout
    assert_refused(ask("status", "laptop"), "no FineTune laptop")


@pytest.mark.parametrize(
    "run_file", [("endless", {"max_steps": 100_000, "global_batch_size": 64})], indirect=True
)
def test_cancel_leaves_a_checkpoint_and_no_pod(cluster: Cluster, anna: str, run_file: Path, data):
    assert medsd("submit", run_file, "--set", "checkpoint.every_steps=null", KUBECONFIG=anna).returncode == 0
    run = Run(cluster, "endless", RESEARCH)
    run.wait("its second step", lambda _: run.step() >= 2, 240)
    cancelled = medsd("cancel", "endless", KUBECONFIG=anna)
    assert cancelled.returncode == 0, cancelled.stderr
    complete, _ = saved_steps(open_storage(f"{data.root}/runs/endless"))
    assert len(complete) == 1 and f"the newest checkpoint is of step {complete[0]}" in cancelled.stdout
    assert cluster.get("finetunes", "endless", RESEARCH) is None
    wait_for("its pods to go", lambda: not run.left(), 60, run.left)


@pytest.mark.parametrize("run_file", [("nobodys", {})], indirect=True)
def test_refusals_are_one_line(login: Callable[..., str], anna: str, run_file: Path):
    bob = login("bob")
    for words in (["submit", run_file], ["status"], ["logs", "nobodys"], ["cancel", "nobodys"]):
        assert_refused(medsd(*words, KUBECONFIG=bob), "forbidden", "research:bob")
    assert_refused(
        medsd("submit", run_file, "--namespace", "no-such-place", KUBECONFIG=anna), "no-such-place"
    )
    assert_refused(
        medsd("submit", run_file, "--set", f"name={'a' * 63}", "--pool", "x" * 64, KUBECONFIG=anna), "--pool"
    )
    assert_refused(medsd("cancel", "nobodys", KUBECONFIG=anna), "no FineTune nobodys")
