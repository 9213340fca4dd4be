"""One way to start or join Ray, for every verb that needs it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from medsd_ray.errors import InputError, RunError

STARTS = 3


CLUSTER = "MEDSD_CLUSTER"
"""Set to 1 for a verb inside a cluster: its own output has the workers' too then, whose nodes go when the run
ends.
"""


def ensure_ray(num_cpus: int = 1) -> None:
    """Joins the cluster that RAY_ADDRESS names, else starts a local Ray with at least `num_cpus` slots; once
    a process.

    Workers' output stays in Ray's log folder, except inside a cluster: what a user needs to know comes
    through the verbs themselves. Raises InputError where no cluster answers at RAY_ADDRESS, RunError where
    Ray does not start here.
    """
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    # More slots than cores let two workers share one core, rather than wait for it for ever.
    local: dict[str, Any] = {"num_cpus": max(num_cpus, os.cpu_count() or 1), "include_dashboard": False}
    # Ray's own remark on a coming default; it changes nothing here.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.pop("RAY_TRAIN_ENABLE_STATE_TRACKING", None)
    options: dict[str, Any] = {"log_to_driver": os.environ.get(CLUSTER) == "1"} | ({} if address else local)
    for attempt in range(1, STARTS + 1):
        try:
            with _own_sigterm():
                ray.init(logging_level=logging.ERROR, configure_logging=True, **options)
            return
        except ConnectionError as error:
            raise InputError(f"no Ray cluster answers at RAY_ADDRESS={address}; mend or unset it") from error
        except (
            Exception
        ) as error:  # a plain Exception: a busy machine does not start Ray in the 30 s that Ray allows itself
            ray.shutdown()
            if attempt == STARTS:
                raise RunError(
                    f"Ray did not start in {STARTS} attempts: {error} Is the machine too busy?"
                ) from error


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keeps this process's answer to SIGTERM: Ray's start would put its own there, which aborts without a
    checkpoint.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
