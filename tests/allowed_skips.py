"""Which tests may be skipped, and where. A skip that is not allowed fails under CI (`CI=true`, or
`MEDSD_STRICT_SKIPS=1`), so that no test passes by not running; elsewhere the run says it at its end.

This module is a pytest plugin, which tests/conftest.py registers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
from chromium import NO_CHROMIUM, find_chromium
from pythons import NO_PYTHON, find_python

NO_DATA = "MEDSD_TEST_DATA names no folder"
NO_CLUSTER = "no cluster can be started here"


def no_data() -> bool:
    return not Path(os.environ.get("MEDSD_TEST_DATA") or "/nonexistent").is_dir()


def no_way_to_chromium() -> bool:
    return find_chromium() is None and (os.geteuid() != 0 or shutil.which("apt-get") is None)


@cache
def no_namespaces() -> bool:
    words = ["unshare", "--fork", "--pid", "--net", "--mount", "true"]
    return os.geteuid() != 0 or subprocess.run(words, capture_output=True).returncode != 0


@dataclass(frozen=True)
class AllowedSkip:
    tests: str
    """A pattern of test ids, as fnmatch has it."""
    reason: str
    """Words that the skip's own message contains."""
    condition: str
    """Where it may be skipped, in words."""
    holds: Callable[[], bool]
    """Whether that is so here."""


ALLOWED = (
    AllowedSkip(
        "tests/unit/*",
        NO_DATA,
        "there is no MEDSD_TEST_DATA, a folder with nih-cxr/ and iu-reports/",
        no_data,
    ),
    AllowedSkip(
        "tests/integration/*",
        NO_CHROMIUM,
        "there is no Chromium, and no apt-get or not the right to install one with it",
        no_way_to_chromium,
    ),
    AllowedSkip(
        "tests/integration/test_wheel.py*",
        NO_PYTHON,
        "there is no Python 3.13 on the PATH, of pyenv or of uv",
        lambda: find_python("3.13") is None,
    ),
    AllowedSkip(
        "tests/cluster/*",
        NO_CLUSTER,
        "this user is not root, or may not make namespaces",
        no_namespaces,
    ),
)


def strict() -> bool:
    """Whether a skip that is not allowed is a failure."""
    return any(os.environ.get(name, "").lower() in ("1", "true") for name in ("CI", "MEDSD_STRICT_SKIPS"))


def allowance(test: str, message: str) -> AllowedSkip | None:
    """The entry that lets this test be skipped here with this message, or None."""
    for entry in ALLOWED:
        if fnmatch(test, entry.tests) and entry.reason in message and entry.holds():
            return entry
    return None


def skip_message(report: pytest.TestReport | pytest.CollectReport) -> str:
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)


def fail_unless_allowed(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turns a skip that is not allowed into a failure, where that is asked for."""
    if not (strict() and report.skipped) or hasattr(report, "wasxfail"):
        return
    message = skip_message(report)
    if allowance(report.nodeid, message) is None:
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, and tests/allowed_skips.py forbids it: {message}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    fail_unless_allowed(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    fail_unless_allowed(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        message = skip_message(report).removeprefix("Skipped: ")
        entry = allowance(report.nodeid, message)
        counts[message, f"allowed, as {entry.condition}" if entry else "CI would fail"] += 1
    if not counts:
        return
    terminalreporter.section("TESTS THAT DID NOT RUN")
    for (message, verdict), count in counts.most_common():
        terminalreporter.line(f"{count} SKIPPED: {message} ({verdict})", yellow=True)
