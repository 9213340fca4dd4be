"""One way to start or join Ray, for every verb that needs it."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Any


def ensure_ray(num_cpus: int = 1) -> None:
    """Joins the cluster that RAY_ADDRESS names, else starts a local Ray with at least `num_cpus` slots; once a process.

    Workers' output stays in Ray's log folder: what a user needs to know comes through the verbs themselves.
    """
    import ray

    if ray.is_initialized():
        return
    # More slots than cores let two workers share one core, rather than wait for it for ever.
    local: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": max(num_cpus, os.cpu_count() or 1)}
    if not os.environ.get("RAY_ADDRESS"):
        local["include_dashboard"] = False
    # Ray's own remark on a coming default; it changes nothing here.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with contextlib.suppress(KeyError):
        os.environ.pop("RAY_TRAIN_ENABLE_STATE_TRACKING")
    ray.init(logging_level=logging.ERROR, log_to_driver=False, configure_logging=True, **local)
