"""A local Ray for the tests that call medsd in their own process, training workers without Ray, and a browser
for tests of the pages. All but the browser are started once, for all tests that name them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from chromium import NO_CHROMIUM, find_chromium
from plain_workers import Pool
from s3_server import S3Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def ray_cluster(s3_session: S3Server) -> Iterator[None]:
    """One local Ray for all tests. It starts after the S3 server, so that its workers inherit the AWS
    settings.
    """
    import ray

    from medsd_ray.ray_cluster import ensure_ray

    ensure_ray(4)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def one_worker() -> Iterator[Pool]:
    pool = Pool(1)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def two_workers() -> Iterator[Pool]:
    pool = Pool(2)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The Chromium of this machine; without one the tests are skipped. Not for the session: while it runs,
    Playwright keeps an event loop in this thread, where others could start none.
    """
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    if path is None:
        pytest.skip(NO_CHROMIUM)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
