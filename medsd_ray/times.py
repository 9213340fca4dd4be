"""Times as text, in the form of RFC 3339, as Kubernetes, runs and reports write them."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> str:
    """The time in UTC, to the second, as the files of runs and reports have it: 2026-01-01T00:00:00+00:00."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def stamp(time: datetime) -> str:
    """A time as the objects of Kubernetes have it: 2026-01-01T00:00:00Z. Without a zone it is UTC."""
    return _with_zone(time).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str) -> datetime:
    """A time that is written in one of these forms. Without a zone it is UTC."""
    return _with_zone(datetime.fromisoformat(text))


def _with_zone(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)
