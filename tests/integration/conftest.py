"""A local Ray for the tests that call medsd in their own process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from s3_server import S3Server


@pytest.fixture(scope="session")
def ray_cluster(s3_session: S3Server) -> Iterator[None]:
    """One local Ray for all tests. It starts after the S3 server, so that its workers inherit the AWS settings."""
    import ray

    from medsd_ray.cluster import ensure_ray

    ensure_ray(4)
    yield
    ray.shutdown()
