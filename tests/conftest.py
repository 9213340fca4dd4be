"""Fixtures for all tests, and what a run of the tests says about itself at its end."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# One thread of torch for each process, before it is imported. Tests run beside others, and threads that wait
# for each other at every operation then make a test of 1 s take 100.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import allowed_skips
import pytest
import timings
from allowed_skips import NO_DATA, no_data
from s3_server import S3Server, s3_server

pytest.register_assert_rewrite("command", "storage_contract")

NOTES = pytest.StashKey[dict[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[NOTES] = {}
    config.pluginmanager.register(timings)
    config.pluginmanager.register(allowed_skips)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What a process of several has to say goes to the one that started them."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["notes"] = session.config.stash[NOTES]


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which may be absent
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[NOTES].update(getattr(node, "workeroutput", {}).get("notes", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = list(config.stash[NOTES].values())
    coverage: Any = config.pluginmanager.getplugin("_cov")
    if coverage and coverage.cov_controller:
        share = coverage.cov_controller.cov.report(file=io.StringIO())
        lines.append(f"These tests run {share:.1f} % of the lines and branches of medsd_ray.")
    if lines:
        terminalreporter.section("medsd")
        for line in lines:
            terminalreporter.line(line, yellow=True)


@pytest.fixture(scope="session")
def notes(request: pytest.FixtureRequest) -> dict[str, str]:
    """What is said at the end of the run, by any key."""
    return request.config.stash[NOTES]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data; the test is skipped where it is absent."""
    if no_data():
        pytest.skip(NO_DATA)
    return Path(os.environ["MEDSD_TEST_DATA"])


@pytest.fixture(scope="session")
def s3_session(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[S3Server]:
    """One S3 server for all tests, in the environment that Ray workers and subprocesses inherit."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        for name, value in server.environment.items():
            patch.setenv(name, value)
        assert server.name.startswith("versitygw") or not allowed_skips.strict(), server.name
        request.config.stash[NOTES]["s3"] = f"The S3 tests ran on {server.name}."
        yield server


@pytest.fixture
def s3(s3_session: S3Server) -> str:
    """`s3://bucket/prefix` in an empty bucket of this test's own."""
    bucket = f"medsd-{uuid.uuid4().hex[:12]}"
    s3_session.client().create_bucket(Bucket=bucket)
    return f"s3://{bucket}/prefix"
