"""Patience with a store that does not answer for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from medsd_ray.errors import RefusedError

Value = TypeVar("Value")

ATTEMPTS = 7
"""With waits of 1, 2, 4, ... 32 s between them: a store may be away for a minute."""


def with_retries(work: Callable[[], Value], attempts: int = ATTEMPTS, first_wait_s: float = 1.0) -> Value:
    """Calls `work`, again and again with growing waits where it fails.

    Args:
        work: What may fail for a while, such as a write to S3.
        attempts: Calls at most.
        first_wait_s: Seconds after the first failure; each later wait is twice the one before.

    Returns:
        What `work` returns.

    Raises:
        FileNotFoundError: At once, as that a file is absent is an answer.
        RefusedError: At once, as waiting does not help.
        Exception: Of the last attempt.
    """
    for attempt in range(attempts):
        try:
            return work()
        except (FileNotFoundError, RefusedError):
            raise
        except Exception:
            if attempt == attempts - 1:
                raise
            time.sleep(first_wait_s * 2**attempt)
    raise AssertionError("unreachable")
