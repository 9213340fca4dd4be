"""Times as text, in the forms that Kubernetes and runs have."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from medsd_ray.times import moment, now, stamp


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05+00:00",
        "2026-01-02T05:04:05+02:00",
        "2026-01-02T03:04:05",
        "2026-01-02T03:04:05.000000Z",  # Kubernetes' MicroTime
    ],
)
def test_every_form_of_a_time_is_the_same_moment(text: str):
    assert moment(text) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert stamp(moment(text)) == "2026-01-02T03:04:05Z"


def test_what_is_written_is_utc_to_the_second():
    east = timezone(timedelta(hours=9))
    assert stamp(datetime(2026, 1, 1, 8, 59, 59, 999999, tzinfo=east)) == "2025-12-31T23:59:59Z"
    assert stamp(datetime(2026, 1, 1)) == "2026-01-01T00:00:00Z"
    assert abs((moment(now()) - datetime.now(UTC)).total_seconds()) < 5 and now().endswith("+00:00")
