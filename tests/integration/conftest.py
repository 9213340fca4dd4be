"""A local Ray for the tests that call medsd in their own process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from s3_server import S3Server


@pytest.fixture(scope="session")
def ray_cluster(s3_session: S3Server) -> Iterator[None]:
    """One local Ray for all tests. It starts after the S3 server, so that its workers inherit the AWS settings."""
    import ray

    # Four slots on any machine: tests ask for two workers and must not wait for each other's actors.
    ray.init(num_cpus=4, object_store_memory=512 * 2**20, include_dashboard=True, log_to_driver=True)
    yield
    ray.shutdown()
