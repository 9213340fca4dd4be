"""What runs where one extra alone is installed: nothing else can be imported."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from command import assert_refused
from extras import MODULES, ROOT, needed


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a folder that holds, as links, what `pip install 'medsd[EXTRA]'` installs."""

    @cache
    def make(extra: str) -> Path:
        folder = tmp_path_factory.mktemp(extra or "core")
        for name in needed(extra):
            for file in importlib.metadata.files(name) or ():
                top = file.parts[0]
                if top not in ("..", "__pycache__") and not top.endswith(".pth"):
                    link, there = folder / top, Path(str(file.locate()))
                    if not link.exists():
                        link.symlink_to(there if len(file.parts) == 1 else there.parents[len(file.parts) - 2])
        return folder

    return make


def run(site: Path, code: str, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python code where nothing but `site` and this medsd can be imported."""
    path = os.pathsep.join([str(ROOT), str(site)])
    return subprocess.run(
        [sys.executable, "-S", "-c", code, *map(str, words)],
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
    )


MEDSD = "from medsd_ray.cli.main import main; main()"


@pytest.mark.parametrize("extra", MODULES, ids=lambda extra: extra or "core")
def test_an_extra_alone_brings_what_its_modules_import(alone: Callable[[str], Path], extra: str):
    names = [f"medsd_ray.{name}" for name in MODULES[extra]]
    result = run(
        alone(extra), "import sys, importlib\nfor n in sys.argv[1:]: importlib.import_module(n)", *names
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="session")
def shards(alone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards that the core alone prepared."""
    made = tmp_path_factory.mktemp("work") / "shards"
    result = run(alone(""), MEDSD, "prepare", ROOT / "examples/custom-data/xrays", made, "--size", "64")
    assert result.returncode == 0, result.stderr
    return made


def test_the_core_alone_prepares_and_submits_to_its_connection(
    alone: Callable[[str], Path], shards: Path, tmp_path: Path
):
    index = json.loads((shards / "index.json").read_text())
    assert index["version"] == importlib.metadata.version("medsd")
    site, spec = alone(""), ROOT / "examples/lora/run.yaml"
    sent = run(site, MEDSD, "submit", spec, "--address", "http://127.0.0.1:9")
    assert_refused(sent, "nothing answers at http://127.0.0.1:9")
    sent = run(site, MEDSD, "status", KUBECONFIG=str(tmp_path / "absent"))
    assert_refused(sent, "no usable kubeconfig")


TRAIN_VAE = ["train", str(ROOT / "examples/first-run/vae.yaml"), "--set", "data.train=SHARDS"]


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        (["encode", "SHARDS", "latents", "--model", "medsd-small"], "torch", "train"),
        ([*TRAIN_VAE, "--set", "output=OUT"], "torch", "train"),
        (["generate", "medsd-small", "--prompt", "x", "--out", "OUT"], "torch", "train"),
        (["evaluate", "--real", "SHARDS", "--generated", "SHARDS", "--out", "OUT"], "torchmetrics", "eval"),
        (["demo", "--out", "OUT"], "torchmetrics", "eval"),
        (["reader-study", "report", "."], "torchmetrics", "eval"),
        (["dashboard", "."], "fastapi", "dashboard"),
        (["prepare", "4", "OUT", "--kind", "phantom"], "scipy", "train"),
        (["prepare", "folder", "OUT", "--kind", "dicom"], "pydicom", "dicom"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_a_verb_whose_packages_are_missing_names_the_extra(
    alone: Callable[[str], Path], shards: Path, tmp_path: Path, words: list[str], package: str, extra: str
):
    places = {"SHARDS": str(shards), "OUT": str(tmp_path / "out")}
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    result = run(alone(""), f"import os; os.chdir({str(tmp_path)!r})\n{MEDSD}", *words)
    assert_refused(
        result, f"medsd: {words[0]} needs {package}, which is not installed: pip install 'medsd[{extra}]'"
    )
    assert not list(tmp_path.iterdir())


def test_a_run_for_a_ray_cluster_needs_ray_once_the_cluster_answers(alone: Callable[[str], Path]):
    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"ray_version": "2.60.0"}')

    with ThreadingHTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sent = run(alone(""), MEDSD, "status", "--address", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert_refused(sent, "status needs ray", "pip install 'medsd[train]'")
