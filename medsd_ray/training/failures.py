"""Why workers ended: what was lost with a machine may be started anew, what the run itself did wrong may
not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from medsd_ray.errors import InputError, RunError

# What gloo, NCCL and torch's store say where the process at the other end went away. A worker may say so
# before Ray itself knows that its peer is dead, above all where the whole node is gone.
BROKEN = re.compile(
    r"gloo/transport|ncclRemoteError|ncclSystemError|Broken pipe|Connection (reset|closed) by peer|TCPStore"
)


def keep_running(fit: Callable[[], Any], limit: int, tell: Callable[[str], None]) -> None:
    """Calls `fit` again each time it lost a worker, `limit` times at most; `tell` gets one line before each
    restart.

    Raises what `fit` ended with otherwise.
    """
    for restart in range(1, limit + 2):
        try:
            fit()
            return
        except Exception as error:
            what = what_was_lost(error)
            if what is None or restart > limit:
                raise
            tell(
                f"a worker was lost ({what}); going on from the newest checkpoint, restart {restart} of "
                f"{limit}"
            )


def what_was_lost(failure: BaseException) -> str | None:
    """What was lost, in a few words, where a worker, its node or a part of Ray went away; None where the run
    itself failed.

    A dead process explains whatever the other workers say, except for an InputError or RunError; broken
    connections alone mean that a process died of which Ray does not know yet.
    """
    failures = [list(_chain(one)) for one in _failures(failure)]
    if any(isinstance(cause, (InputError, RunError)) for chain in failures for cause in chain):
        return None
    if dead := [words for chain in failures for cause in chain if (words := _dead(cause))]:
        return dead[0]
    broken = [
        any(isinstance(cause, RuntimeError) and BROKEN.search(str(cause)) for cause in chain)
        for chain in failures
    ]
    return "the connection to it broke" if all(broken) else None


def _failures(failure: BaseException) -> list[BaseException]:
    """The workers' failures of Ray Train's error, or the error itself."""
    return list(getattr(failure, "worker_failures", {}).values()) or [failure]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all that it wraps: Ray Train's health check and controller errors, Ray's task errors,
    causes.
    """
    while error is not None:
        yield error
        inner = (
            getattr(error, name, None)
            for name in ("health_check_failure", "controller_failure", "cause", "__cause__")
        )
        error = next((e for e in inner if isinstance(e, BaseException)), None)


def _dead(error: BaseException) -> str | None:
    """How a worker or its node ended, where that is what the error says."""
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError
    from ray.train import PreemptionError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError

    text = str(error)
    actor = isinstance(error, RayActorError)
    if isinstance(error, PreemptionError) or (actor and error.preempted):
        return "its node was taken back"
    if isinstance(error, OutOfMemoryError) or (actor and "OUT_OF_MEMORY" in text):
        return "its node ran out of memory"
    if isinstance(error, NodeDiedError) or (actor and "node has died" in text):
        return "its node died"
    if isinstance(error, WorkerHealthCheckTimeoutError):
        return "it answered no more"
    if isinstance(error, WorkerCrashedError) or (actor and not error.actor_init_failed):
        return "its process died"
    return None


def as_user_error(failure: BaseException) -> Exception:
    """The error of a failed run as one that a user can act on."""
    causes = [cause for one in _failures(failure) for cause in _chain(one)]
    for kind in (InputError, RunError):
        for cause in causes:
            if isinstance(cause, kind):
                return cause
    if what := what_was_lost(failure):
        return RunError(
            f"training failed: a worker was lost ({what}), once more than resources.max_failures allows; "
            "--resume goes on from "
            "the newest checkpoint"
        )
    first = _failures(failure)[0]
    text = str(first).strip().splitlines()
    return RunError(f"training failed: {text[-1] if text else type(first).__name__}; Ray's logs say more")
