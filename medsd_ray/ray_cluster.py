"""One way to start or join Ray, for every verb that needs it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medsd_ray.console import stage
from medsd_ray.errors import InputError, RunError

STARTS = 3


CLUSTER = "MEDSD_CLUSTER"
"""Set to 1 for a verb inside a cluster: its own output has the workers' too then, whose nodes go when the run
ends.
"""
_HOST_PORT = re.compile(r"(?:ray://)?(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]+)):(\d{1,5})")
_WAITS_S = (1, 2, 4, 0)
"""After each attempt to reach a cluster, which may be starting. Ray itself would wait for minutes."""


def cluster_address() -> str | None:
    """What RAY_ADDRESS says, where it names a cluster to join."""
    address = os.environ.get("RAY_ADDRESS")
    return None if address == "local" else address or None


def check_address() -> None:
    """Raises InputError where RAY_ADDRESS is no address of a cluster, or nothing answers there. For a verb
    that is about to write something before it starts Ray.
    """
    address = cluster_address()
    if address in (None, "auto"):
        return
    found = _HOST_PORT.fullmatch(address)
    if found is None or not 0 < int(found[3]) < 2**16:
        raise InputError(
            f"RAY_ADDRESS={address}: not the address of a Ray cluster; set HOST:PORT, ray://HOST:PORT or "
            "auto, or unset it"
        )
    for wait_s in _WAITS_S:
        try:
            return socket.create_connection((found[1] or found[2], int(found[3])), timeout=5).close()
        except (OSError, UnicodeError):  # the latter: a name that no host can have
            time.sleep(wait_s)
    raise InputError(f"no Ray cluster answers at RAY_ADDRESS={address}; mend or unset it")


def ensure_ray(num_cpus: int = 1) -> None:
    """Joins the cluster that RAY_ADDRESS names, else starts a local Ray with at least `num_cpus` slots, which
    listens on this machine's own address alone; once a process.

    Workers' output stays in Ray's log folder, except inside a cluster: what a user needs to know comes
    through the verbs themselves. Raises InputError where no cluster answers at RAY_ADDRESS or Ray cannot use
    its folder here, RunError where it does not start.
    """
    if (ray := sys.modules.get("ray")) and ray.is_initialized():
        return
    check_address()
    address = cluster_address()
    # Said before the import, which takes a while.
    stage(f"joining the Ray cluster at {address}" if address else "starting Ray")
    import ray

    options: dict[str, Any] = {"log_to_driver": os.environ.get(CLUSTER) == "1"}
    if address is None:
        # More slots than cores let two workers share one core, rather than wait for it for ever.
        options |= {"num_cpus": max(num_cpus, os.cpu_count() or 1), "include_dashboard": False}
        _keep_to_this_machine()
    # Ray's own remark on a coming default; it changes nothing here.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.pop("RAY_TRAIN_ENABLE_STATE_TRACKING", None)
    for attempt in range(1, STARTS + 1):
        try:
            with _own_sigterm():
                ray.init(logging_level=logging.ERROR, configure_logging=True, **options)
            return
        except ConnectionError as error:
            raise InputError(f"no Ray cluster answers at RAY_ADDRESS={address}; mend or unset it") from error
        except Exception as error:
            # A plain Exception: a busy machine does not start Ray in the 30 s that Ray allows itself.
            ray.shutdown()
            if problem := _problem_of_folder(error):
                raise InputError(problem) from error
            if attempt == STARTS:
                raise RunError(
                    f"Ray did not start in {STARTS} attempts: {error} Is the machine too busy?"
                ) from error


def _keep_to_this_machine() -> None:
    """A local Ray is for this process: its node takes 127.0.0.1 for its address, and so listens there alone;
    and the token that its API asks for is for this user to read.
    """
    from ray._private import ray_constants

    # What Ray does by itself on macOS and Windows, where a firewall would ask. `ray.init` has an argument for
    # the node's address, but takes 127.0.0.1 for a mistake in it.
    ray_constants.ENABLE_RAY_CLUSTER = False
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    token = Path.home() / ".ray" / "auth_token"  # where Ray keeps it
    with contextlib.suppress(OSError):  # Ray says what it misses
        token.parent.mkdir(parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(32))  # as Ray makes one
        except FileExistsError:
            token.chmod(0o600)


def _problem_of_folder(error: Exception) -> str | None:
    """What is wrong with the folder that Ray keeps its files in, where that is why it did not start."""
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder = f"{name}={os.environ[name]}" if name in os.environ else "/tmp"
    if "AF_UNIX path length" in str(error):
        return f"{folder}: too long for the sockets that Ray makes there; set a shorter {name}, such as /tmp"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{folder}: Ray cannot write there ({error.strerror}); set {name} to another folder"
    return None


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
