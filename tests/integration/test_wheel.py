"""The wheel in a bare environment: what medsd does without an extra, on two versions of Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from command import assert_refused
from pythons import NO_PYTHON, find_python

ROOT = Path(__file__).parents[2]
MOST = 150 * 2**20
"""Bytes that the core takes, medsd-small among them."""


def uv(*words: object) -> str:
    """Runs the uv that `make install` runs. Returns what it printed."""
    program = shutil.which("uv") or ROOT / ".venv-tools/bin/uv"
    done = subprocess.run([program, *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--wheel", "--out-dir", folder)
    (made,) = folder.glob("*.whl")
    assert made.name == f"medsd-{version('medsd')}-py3-none-any.whl"
    return made


@pytest.fixture(scope="module", params=["3.11", "3.13"])
def bare(
    wheel: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """An environment with the wheel and what it needs, and nothing else."""
    python = find_python(request.param)
    if python is None:
        pytest.skip(NO_PYTHON)
    folder = tmp_path_factory.mktemp("bare")
    uv("venv", "--python", python, "--no-project", folder)
    uv("pip", "install", "--python", folder / "bin/python", wheel)
    yield folder
    shutil.rmtree(folder)


def run(bare: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [bare / "bin/medsd", *map(str, words)]
    return subprocess.run(command, env=clean | environment, cwd=bare, capture_output=True, text=True)


def test_the_wheel_alone_prepares_submits_and_says_what_it_lacks(bare: Path, tmp_path: Path):
    assert run(bare, "--version").stdout == f"{version('medsd')}\n"
    for words in ([], ["-h"], ["--help"], ["prepare", "--help"]):
        said = run(bare, *words)
        assert said.returncode == 0 and "Usage: medsd" in said.stdout, said.stderr

    shards = tmp_path / "shards"
    made = run(bare, "prepare", ROOT / "examples/custom-data/xrays", shards, "--kind", "folder", "--size", 64)
    assert made.returncode == 0, made.stderr
    assert json.loads((shards / "index.json").read_text())["version"] == version("medsd")

    spec = ROOT / "examples/lora/run.yaml"
    assert_refused(run(bare, "submit", spec, "--address", "http://127.0.0.1:9"), "nothing answers at")
    assert_refused(run(bare, "status", KUBECONFIG=str(tmp_path / "absent")), "no usable kubeconfig")
    words = [
        ROOT / "examples/first-run/vae.yaml",
        "--set",
        f"data.train={shards}",
        "--set",
        f"output={tmp_path}/run",
    ]
    assert_refused(run(bare, "train", *words), "train needs torch", "pip install 'medsd[train]'")


def test_the_core_is_small(bare: Path):
    files = [path for path in bare.glob("lib/python*/site-packages/**/*") if path.suffix != ".pyc"]
    assert sum(path.lstat().st_size for path in files if path.is_file()) < MOST


def test_the_wheel_names_its_extras_and_its_licence(wheel: Path, bare: Path):
    metadata = next(bare.glob("lib/python*/site-packages/medsd-*.dist-info/METADATA")).read_text()
    for extra in ("train", "eval", "dashboard", "operator", "dicom", "all"):
        assert f"Provides-Extra: {extra}\n" in metadata
    assert "License-File: LICENSE\n" in metadata and "Requires-Python: <3.14,>=3.11\n" in metadata
