"""What medsd imports, what pyproject.toml declares, and what runs where one extra alone is installed."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest
from command import assert_refused
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from medsd_ray.cli.main import VERBS
from medsd_ray.cli.packages import NEEDED, missing_package
from medsd_ray.cli.reader_study import reader_study

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
USED_UNSEEN = {
    "accelerate": "diffusers and transformers load weights by it",
    "ninja": "DeepSpeed compiles by it",
    "plotly": "its script is served as a file",
    "pylibjpeg": "pydicom finds it",
    "pylibjpeg-openjpeg": "pydicom finds it",
    "python-gdcm": "pydicom finds it",
    "tensorboard": "torch.utils.tensorboard writes by it",
    "torch-fidelity": "torchmetrics computes FID and KID by it",
}


def declared(extra: str) -> set[str]:
    """The distributions that an extra names, or those needed without one."""
    return {str(canonicalize_name(Requirement(line).name)) for line in EXTRAS[extra]} - {"medsd"}


def imported() -> dict[str, set[str]]:
    """Top-level modules from outside the standard library, and the files that import them."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "medsd_ray").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                found.setdefault(name.partition(".")[0], set()).add(str(path.relative_to(ROOT)))
    return {
        name: files for name, files in found.items() if name not in {*sys.stdlib_module_names, "medsd_ray"}
    }


def test_all_that_is_imported_is_declared_and_all_that_is_declared_is_used():
    known = set().union(*map(declared, EXTRAS))
    providers = importlib.metadata.packages_distributions()
    used = {name: {canonicalize_name(one) for one in providers.get(name, [])} for name in imported()}
    undeclared = {name: sorted(imported()[name]) for name, found in used.items() if not found & known}
    assert not undeclared
    assert known - set().union(*used.values()) == set(USED_UNSEEN)


def requirements(name: str, extra: str) -> list[Requirement]:
    """Of a distribution, with the extra or ("") without: medsd's own by pyproject.toml."""
    if name == "medsd":
        return [Requirement(line) for line in EXTRAS[extra]]
    found = [Requirement(line) for line in importlib.metadata.requires(name) or ()]
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": extra})]


def needed(extra: str) -> set[str]:
    """The distributions that `pip install 'medsd[EXTRA]'` installs."""
    found, todo = set(), [("medsd", ""), ("medsd", extra)]
    while todo:
        this = todo.pop()
        if this not in found:
            found.add(this)
            for one in requirements(*this):
                todo += [(canonicalize_name(one.name), each) for each in ("", *one.extras)]
    return {name for name, _ in found}


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
MODULES = {
    "": ["data.prepare", "storage", "client.finetune_client", "client.ray_job_client", "client.download"],
    "train": ["training.run", "generation.generate", "generation.encode", "models.export", "driver.job"],
    "eval": [
        "evaluation.evaluate",
        "evaluation.insert",
        "tuning.tune",
        "tuning.trial",
        "reader_study.report",
    ],
    "dashboard": ["dashboard.app", "reader_study.serve"],
    "operator": ["operator.__main__"],
    "dicom": ["data.sources.dicom"],
}


def test_each_extra_is_tried():
    assert set(MODULES) == set(EXTRAS) - {"all"}
    everything = set().union(*map(declared, MODULES))
    assert everything <= needed("all")


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


def test_each_verb_that_asks_for_a_package_is_there_and_so_is_the_package():
    verbs = {verb.__name__ for verb in VERBS} | {
        f"reader-study {command.callback.__name__}" for command in reader_study.registered_commands
    }
    assert set(NEEDED) <= verbs
    assert all(find_spec(module) for module in NEEDED.values())


def test_a_module_that_no_extra_brings_is_a_fault_of_the_installation():
    assert missing_package(ModuleNotFoundError(name="triton.language"), "train") is None
    assert missing_package(ModuleNotFoundError(name="torch.nothing"), "train") is not None
