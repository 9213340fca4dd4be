"""A researcher's Study from `kubectl apply` to its best run: trials of two workers, one after the other, on
one Ray cluster.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster.kube import Cluster, Run
from cluster.runs import RESEARCH, Data

from medsd_ray.spec.load import load_run
from medsd_ray.storage import open_storage


@pytest.fixture
def study(cluster: Cluster, installed: None, data: Data) -> Iterator[Run]:
    """Two combinations of components, of six steps each."""
    spec = {
        "output": f"{data.root}/studies/search",
        "shards": data.shards,
        "run": {
            "model": data.model,
            "components": {"unet": "full"},
            "training": {"max_steps": 6, "global_batch_size": 8, "log_every": 1, "learning_rate": 1e-3},
            "resources": {"num_workers": 2},
        },
        "space": {"components.text_encoder": {"choice": ["frozen", "full"]}},
        "evaluation": {"num_images": 8, "steps": 2, "guidance_scale": 1.0},
    }
    meta = {"name": "search", "namespace": RESEARCH}
    cluster.apply(
        {"apiVersion": "medsd.io/v1alpha1", "kind": "Study", "metadata": meta, "spec": {"study": spec}}
    )
    run = Run(cluster, "search", RESEARCH, kind="studies")
    yield run
    run.delete()


def test_from_apply_to_the_best_run(study: Run, cluster: Cluster, data: Data, tmp_path):
    study.wait("its first trial's end", lambda _: study.step() >= 1, 900)
    assert [job["metadata"]["name"] for job in study.parts("rayjobs")] == ["search-s1"]
    assert [len(study.pods(node_type)) for node_type in ("head", "worker")] == [1, 2]
    study.wait_for_phase("Succeeded", 900)

    status, output = study.status(), open_storage(f"{data.root}/studies/search")
    assert (status["progress"]["step"], status["progress"]["totalSteps"]) == (2, 2)
    found = output.read_json("study.json")
    assert [trial["status"] for trial in found["trials"]] == ["done", "done"]
    assert sorted(trial["components"]["text_encoder"] for trial in found["trials"]) == ["frozen", "full"]
    assert status["progress"]["best"] == found["best"]["insertion_accuracy"]
    assert status["addresses"]["report"] == f"{output.url}/study.md" and output.exists("study.md")
    (tmp_path / "best.yaml").write_bytes(output.read("best.yaml"))
    assert load_run(tmp_path / "best.yaml").model == data.model
    header, line = cluster.kubectl("get", "studies", "-n", RESEARCH).stdout.splitlines()
    assert header.split()[:6] == ["NAME", "PHASE", "DONE", "TRIALS", "METRIC", "BEST"]
    assert line.split()[:5] == ["search", "Succeeded", "2", "2", "insertion_accuracy"]
