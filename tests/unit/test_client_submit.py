"""What `medsd submit` makes of a run before it sends it, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from command import assert_refused, medsd_here

from medsd_ray.client.submit import check_folders, finetune, job_folder, read_report
from medsd_ray.errors import InputError
from medsd_ray.spec.load import load_run, parse_run
from medsd_ray.spec.run import RunSpec

RUN = {
    "name": "nih-unet",
    "data": {"train": "s3://bucket/latents"},
    "components": {"unet": "full", "text_encoder": {"method": "full", "learning_rate": 5e-5}},
    "training": {"max_steps": 100, "global_batch_size": 32, "ema": None},
    "output": "s3://bucket/runs/nih",
}
CLOSED = "http://127.0.0.1:9"
"""The port of `discard`, where nothing listens."""


def run(**changes: object) -> RunSpec:
    return parse_run(RUN | changes)


def test_a_finetune_says_what_the_run_says_and_no_more():
    assert finetune(run(), pool="a100", queue="gpus") == {
        "apiVersion": "medsd.io/v1alpha1",
        "kind": "FineTune",
        "metadata": {"name": "nih-unet"},
        "spec": {
            "pool": "a100",
            "queue": "gpus",
            "run": {
                "data": {"train": "s3://bucket/latents"},
                "components": {
                    "unet": {"method": "full"},
                    "text_encoder": {"method": "full", "learning_rate": 5e-5},
                },
                "training": {"max_steps": 100, "global_batch_size": 32, "ema": None},
                "output": "s3://bucket/runs/nih",
            },
        },
    }


def test_what_is_left_out_of_a_finetune_is_the_default():
    spec = finetune(run(seed=7, checkpoint={"keep_best": False}))["spec"]["run"]
    assert parse_run(spec | {"name": "nih-unet"}) == run(seed=7, checkpoint={"keep_best": False})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"output": "runs/nih"}, "output is runs/nih"),
        (
            {"data": {"train": "/shards", "validation": "val"}},
            "data.train is /shards, data.validation is val",
        ),
        ({"model": "./runs/vae"}, "model is ./runs/vae"),
        ({"prior": {"data": "class"}}, "prior.data is class"),
        (
            {"components": {"text_encoder": {"method": "swap", "swap": {"model": "./bert"}}}},
            "swap.model is ./bert",
        ),
    ],
)
def test_pods_reach_s3_alone(changes: dict, named: str):
    with pytest.raises(InputError, match=named):
        finetune(run(**changes))


@pytest.mark.parametrize("model", ["medsd-small", "stabilityai/sd-turbo", "s3://bucket/runs/vae"])
def test_pods_reach_models_by_name(model: str):
    finetune(run(model=model))


def test_an_option_that_is_no_name_is_refused():
    with pytest.raises(InputError, match="--pool 'A 100'"):
        finetune(run(), pool="A 100")


def test_a_ray_clusters_nodes_may_share_a_folder_but_not_the_jobs_own():
    check_folders(run(output="/mnt/runs/nih", data={"train": "/mnt/latents"}))
    with pytest.raises(InputError, match=r"data.train is latents, output is runs/nih"):
        check_folders(run(output="runs/nih", data={"train": "latents"}))


def test_a_report_is_a_file_of_its_fields(tmp_path: Path):
    file = tmp_path / "report.yaml"
    file.write_text(
        yaml.safe_dump({"real": "s3://bucket/shards", "prompts": ["a chest x-ray"], "numImages": 8})
    )
    report = read_report(file)
    spec = finetune(run(), report=report)["spec"]
    assert spec["report"] == {"real": "s3://bucket/shards", "prompts": ["a chest x-ray"], "numImages": 8}

    file.write_text("{real: shards, prompts: [a chest x-ray]}")
    with pytest.raises(InputError, match=r"report.real is shards"):
        finetune(run(), report=read_report(file))
    for text, named in (
        ("numImages: 0", "numImages"),
        ("[", "not YAML"),
        ("prompts: [a chest x-ray]", "real is missing"),
        ("numImage: 8", r"numImage is not a field of a report; did you mean numImages\?"),
        ("guidanceScale: 0.5", "guidanceScale: Input should be greater than or equal to 1"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=named):
            read_report(file)
    with pytest.raises(InputError, match=r"absent.yaml"):
        read_report(tmp_path / "absent.yaml")


def test_a_jobs_folder_has_the_run_and_the_code_beside_it(tmp_path: Path):
    code = tmp_path / "code"
    (code / "medsd_ray").mkdir(parents=True)
    (code / "medsd_ray" / "cli.py").write_text("print('mine')")
    (code / "run.yaml").write_text("name: another")
    with job_folder(run(), code) as folder:
        assert (folder / "medsd_ray" / "cli.py").read_text() == "print('mine')"
        assert load_run(folder / "run.yaml") == run()
    assert (code / "run.yaml").read_text() == "name: another"
    assert not folder.exists()
    with job_folder(run(), None) as folder:
        assert [path.name for path in folder.iterdir()] == ["run.yaml"]
    with pytest.raises(InputError, match="--working-dir"), job_folder(run(), tmp_path / "absent"):
        pass


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(RUN))
    return path


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--address", CLOSED, "--pool", "a100", "--queue", "q"], "--pool, --queue"),
        (["--address", CLOSED, "--namespace", "research"], "--namespace"),
        (["--address", "ray://head:10001"], "ray://head:10001"),
        (["--address", CLOSED], "nothing answers at http://127.0.0.1:9"),
        (["--working-dir", "."], "--working-dir"),
        (["--set", "training.max_step=3"], "training.max_step"),
    ],
)
def test_wrong_words_are_one_line_and_exit_2(run_file: Path, words: list[str], named: str):
    assert_refused(medsd_here("submit", run_file, *words), named)


def test_another_server_than_rays_dashboard_is_told_apart(run_file: Path):
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        assert_refused(
            medsd_here("submit", run_file, "--address", address), f"http://{address}", "no Ray dashboard"
        )
        server.shutdown()


@pytest.mark.parametrize("words", [["--address", CLOSED], []])
def test_submit_loads_no_torch(run_file: Path, tmp_path: Path, words: list[str]):
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "{current-context: c, contexts: [{name: c, context: {cluster: k, user: u}}], users: [{name: u, user: "
        "{}}], "
        "clusters: [{name: k, cluster: {server: 'http://127.0.0.1:9'}}]}"
    )
    code = (
        "import sys, json, os\n"
        f"os.environ['KUBECONFIG'] = {str(kubeconfig)!r}\n"
        f"sys.argv = ['medsd', 'submit', {str(run_file)!r}, *{words!r}]\n"
        "from medsd_ray.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        "print(json.dumps([code, sorted({'torch', 'diffusers', 'transformers', 'kubernetes', 'ray'} & "
        "set(sys.modules))]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert json.loads(result.stdout.splitlines()[-1]) == [2, [] if words else ["kubernetes"]]
