"""What can be told without torch is told before it is imported: here its import is an error."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import MEDSD, assert_done, assert_refused
from model_layouts import FLUX, SDXL, draw_pipeline
from PIL import Image
from run_outputs import write_output
from small_latents import write_latents
from tiny import tiny_components

from medsd_ray.data.prepare import prepare
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.models.save import save_pipeline
from medsd_ray.spec.load import parse_run

FORBID = """
import sys
from importlib.machinery import ModuleSpec

class Forbidden:  # whether a package is installed may be asked
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "diffusers", "transformers", "deepspeed"):
            return ModuleSpec(name, self)
    def create_module(self, spec):
        raise RuntimeError(f"{spec.name} was imported")
    def exec_module(self, module): ...
sys.meta_path.insert(0, Forbidden())
"""


class Hub(BaseHTTPRequestHandler):
    """The files of one model below `folder`, as huggingface.co serves them."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        _, _, name = self.path.partition("/resolve/main/")
        self.asked.append(self.path)
        path = self.folder / name
        there = bool(name) and path.is_file()
        self.send_response(200 if there else 404)
        self.send_header("X-Repo-Commit", "0" * 40)
        if there:
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", str(path.stat().st_size))
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
        self.end_headers()
        if there and self.command == "GET":
            self.wfile.write(path.read_bytes())

    do_GET = do_HEAD

    def log_message(self, format: str, *args: Any) -> None: ...


def test_on_the_hub_another_layout_is_refused_before_its_weights_are_fetched(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    Hub.folder, Hub.asked = root / "sdxl", []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        refused = without_torch(root, "generate", "owner/sdxl", "--prompt", "x", "--out", "out")
        server.shutdown()
    assert_refused(refused, "owner/sdxl: this is Stable Diffusion XL (StableDiffusionXLPipeline)")
    fetched = {path.partition("/resolve/main/")[2] for path in Hub.asked} - {""}
    assert "model_index.json" in fetched and not any("safetensors" in name for name in fetched)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image shards, a model and its latents, a finished run, and models of other layouts."""
    root = tmp_path_factory.mktemp("before-torch")
    (root / "no-torch").mkdir()
    (root / "no-torch/sitecustomize.py").write_text(FORBID)
    prepare(SourceRequest("40", kind="phantom", size=64), str(root / "shards"))
    components = tiny_components(0)
    save_pipeline(components, root / "model")
    write_latents(str(root / "latents"), components, str(root / "model"), samples=4)
    draw_pipeline(root / "sdxl", "StableDiffusionXLPipeline", SDXL)
    draw_pipeline(root / "sd3", "StableDiffusion3Pipeline", FLUX)
    draw_pipeline(root / "flux", "FluxPipeline", FLUX)
    write_output(parse_run(run_values(root, output="finished")), components, finished=True)
    (root / "made").mkdir()
    Image.new("L", (64, 64), 90).save(root / "made/0.png")
    return root


def run_values(root: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "r",
        "model": str(root / "model"),
        "data": {"train": str(root / "latents")},
        "components": {"unet": "full", "text_encoder": "full"},
        "training": {"max_steps": 6, "global_batch_size": 4},
    } | changes | {"output": str(root / changes.get("output", "new"))}  # fmt: skip


def without_torch(root: Path, *words: object) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(root / "no-torch"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [MEDSD, *map(str, words)], cwd=root, env=os.environ | {"PYTHONPATH": paths}, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip


def write_yaml(root: Path, name: str, values: dict[str, Any]) -> str:
    (root / name).write_text(yaml.safe_dump(values))
    return name


def train(**changes: Any) -> Callable[[Path], list[str]]:
    return lambda root: ["train", write_yaml(root, "run.yaml", run_values(root, **changes))]


def words(text: str) -> Callable[[Path], list[str]]:
    return lambda root: text.split()


def tune(root: Path, shards: str = "shards", **run: Any) -> list[str]:
    values = {
        "name": "s",
        "output": str(root / "new"),
        "shards": str(root / shards),
        "metric": "validation_loss",
        "run": {
            "model": str(root / "model"),
            "components": {"unet": "full"},
            "training": {"max_steps": 2, "global_batch_size": 2},
        }
        | run,
        "space": {"training.learning_rate": [1e-4, 1e-3]},
    }
    return ["tune", write_yaml(root, "study.yaml", values)]


def submit(root: Path) -> list[str]:
    file = write_yaml(root, "run.yaml", run_values(root, model=str(root / "flux")))
    return ["submit", file, "--address", "http://127.0.0.1:9"]


REFUSED = {
    "submit, Flux": (submit, "this is Flux (FluxPipeline)"),
    "insert, SDXL": (words("insert sdxl --real shards --prompt x --out out"), "this is Stable Diffusion XL"),
    "insert, images": (words("insert model --real absent --prompt x --out out"), "neither shards"),
    "evaluate, SDXL": (
        words("evaluate --real shards --generated images --vae sdxl --out out"),
        "this is Stable Diffusion XL",
    ),
    "evaluate, images": (words("evaluate --real absent --generated made --out out"), "absent: neither"),
    "evaluate, no task run": (words("evaluate finished --real shards"), "finished: no task run"),
    "predict, no task run": (words("predict finished made --out out"), "finished: no task run"),
    "evaluate, weights": (
        words("evaluate --real shards --generated made --xrv absent.pt --out out"),
        "absent.pt: no such weight file",
    ),
    "augment, images": (words("augment --real absent --generated made --out out"), "absent: neither"),
    "reader-study, images": (
        words("reader-study new --real absent --generated made --out out"),
        "absent: neither",
    ),
    "tune, shards": (lambda root: tune(root, shards="absent"), "absent: no finished 'train' split"),
    "tune, SDXL": (lambda root: tune(root, model=str(root / "sdxl")), "this is Stable Diffusion XL"),
    "encode, SDXL": (words("encode shards out --model sdxl"), "this is Stable Diffusion XL"),
    "encode, shards": (words("encode absent out --model model"), "absent: no finished 'train' split"),
    "encode, latents": (words("encode latents out --model model"), "latent shards have no images"),
    "generate, SD3": (words("generate sd3 --prompt x --out out"), "this is Stable Diffusion 3"),
    "generate, hub": (words("generate no/such*name --prompt x --out out"), "no/such*name: no such model"),
    "generate, out": (words("generate model --prompt x --out shards"), "shards: not empty, and not made by"),
    "train, Flux": (lambda root: train(model=str(root / "flux"))(root), "this is Flux (FluxPipeline)"),
    "train, data": (lambda root: train(data={"train": str(root / "absent")})(root), "no finished 'train'"),
    "train, output": (train(output="finished"), "a run was started here; go on with --resume"),
    "export, base": (words("export absent out"), "absent"),
    "export, dest": (words("export finished shards"), "shards: not empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_before_torch_is_imported(root: Path, case: str):
    make, said = REFUSED[case]
    assert_refused(without_torch(root, *make(root)), said)
    assert not (root / "out").exists() and not (root / "new").exists()


NO_GPU = {
    "insert": words("insert model --real shards --prompt x --method sdedit --out out --use-gpu"),
    "tune": lambda root: tune(root, resources={"use_gpu": True}),
    "encode": words("encode shards out --model model --use-gpu"),
    "generate": words("generate model --prompt x --out out --use-gpu"),
    "generate, 2 workers": words("generate model --prompt x --out out --use-gpu --num-workers 2"),
    "train": train(resources={"num_workers": 2, "use_gpu": True}),
}


@pytest.mark.parametrize("verb", NO_GPU)
def test_gpus_that_are_asked_for_and_not_there_are_said_before_torch_is_imported(
    root: Path, verb: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert_refused(without_torch(root, *NO_GPU[verb](root)), "GPU")
    assert not (root / "out").exists() and not (root / "new").exists()


def test_a_finished_run_is_resumed_at_once(root: Path):
    file = write_yaml(root, "finished.yaml", run_values(root, output="finished"))
    said = assert_done(without_torch(root, "train", file, "--resume"))
    assert "this run is finished, nothing to do" in said and "done: 6 steps" in said
    write_yaml(root, file, run_values(root, output="finished", seed=5))
    assert_refused(without_torch(root, "train", file, "--resume"), "--resume: seed is 5, but 0")
