"""A skip that nobody allowed fails where that is asked for, and is said elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from allowed_skips import NO_DATA

TESTS = Path(__file__).parents[1]
SKIPPING = f"""
import pytest


@pytest.fixture
def data():
    pytest.skip({NO_DATA!r})


def test_of_data(data):
    pass


def test_of_nothing():
    pytest.skip("it rains")


@pytest.mark.xfail
def test_of_a_known_fault():
    assert False
"""


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Pytest on these tests, as if they lay in tests/unit."""
    path = folder / "tests/unit/test_it.py"
    path.parent.mkdir(parents=True)
    path.write_text(SKIPPING)
    words = ["-p", "allowed_skips", "-p", "no:cacheprovider", f"--rootdir={folder}", str(path)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(TESTS), **environment}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("variable", ["CI", "MEDSD_STRICT_SKIPS"])
def test_a_skip_that_is_not_allowed_fails_and_is_named(tmp_path: Path, variable: str):
    done = run(tmp_path, **{variable: "1"})
    assert done.returncode == 1 and "1 failed, 1 skipped, 1 xfailed" in done.stdout, done.stdout
    assert "tests/unit/test_it.py::test_of_nothing was skipped" in done.stdout and "it rains" in done.stdout


def test_data_that_is_there_must_be_used(tmp_path: Path):
    done = run(tmp_path, CI="true", MEDSD_TEST_DATA=str(tmp_path))
    assert done.returncode == 1 and "1 failed, 1 xfailed, 1 error" in done.stdout, done.stdout
    assert "test_of_data was skipped" in done.stdout, done.stdout


def test_elsewhere_each_skip_is_said(tmp_path: Path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "1 SKIPPED: it rains (CI would fail)" in done.stdout
    assert f"1 SKIPPED: {NO_DATA} (allowed, as there is no MEDSD_TEST_DATA" in done.stdout
