"""Which ends of Ray Train a run goes on after, and what a user is told of the others."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

from medsd_ray.errors import InputError, RunError
from medsd_ray.training.failures import as_user_error, keep_running, what_was_lost

GLOO = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1450."
)
NCCL = (
    "NCCL error: remote process exited or there was a network error, NCCL version 2.27\n"
    "ncclRemoteError: A call failed"
)


def dead(text: str = ActorDiedError.BASE_ERROR_MSG, **more: bool) -> WorkerHealthCheckFailedError:
    return WorkerHealthCheckFailedError("A worker health check failed.", RayActorError("ab", text, **more))


def group(*failures: Exception) -> WorkerGroupError:
    return WorkerGroupError("in words", dict(enumerate(failures)))


@pytest.mark.parametrize(
    ("failure", "what"),
    [
        (group(dead()), "its process died"),
        (group(RuntimeError(GLOO), dead()), "its process died"),
        (group(ValueError("follows from the death"), dead()), "its process died"),
        (group(dead("The actor died because its node has died. Node Id: ab")), "its node died"),
        (group(dead("Worker exit type: NODE_OUT_OF_MEMORY")), "its node ran out of memory"),
        (group(dead(preempted=True)), "its node was taken back"),
        (group(WorkerHealthCheckTimeoutError("hangs")), "it answered no more"),
        (group(RuntimeError(GLOO), RuntimeError(NCCL)), "the connection to it broke"),
        (ControllerError(ActorUnavailableError("gone", None)), "its process died"),
        (RayActorError("ab"), "its process died"),
        (group(InputError("a bad shard"), RuntimeError(GLOO)), None),
        (group(RunError("diverged"), dead()), None),
        (group(RuntimeError("CUDA out of memory")), None),
        (group(RuntimeError("CUDA out of memory"), RuntimeError(GLOO)), None),
        (group(WorkerHealthCheckFailedError("", TypeError("cannot pickle"))), None),
        (ControllerError(RayActorError("ab", "in its creation task", actor_init_failed=True)), None),
        (ControllerError(ValueError("a bug")), None),
    ],
)
def test_what_was_lost(failure: Exception, what: str | None):
    assert what_was_lost(failure) == what


def test_a_lost_worker_is_let_off_so_many_times():
    ends: list[Exception | None] = [group(dead()), group(RuntimeError(GLOO)), None]
    told: list[str] = []

    def fit() -> None:
        if end := ends.pop(0):
            raise end

    keep_running(fit, 2, told.append)
    assert told == [
        "a worker was lost (its process died); going on from the newest checkpoint, restart 1 of 2",
        "a worker was lost (the connection to it broke); going on from the newest checkpoint, restart 2 of 2",
    ]
    ends, told = [group(dead()), group(dead())], []
    with pytest.raises(WorkerGroupError):
        keep_running(fit, 1, told.append)
    assert len(told) == 1


def test_the_runs_own_error_ends_it_at_once():
    told: list[str] = []

    def fit() -> None:
        raise group(RuntimeError("CUDA out of memory"))

    with pytest.raises(WorkerGroupError):
        keep_running(fit, 5, told.append)
    assert told == []


def test_words():
    error = InputError("shard 3 is corrupt")
    assert as_user_error(group(RuntimeError(GLOO), error)) is error
    assert "max_failures" in str(as_user_error(group(dead())))
    assert str(as_user_error(group(ValueError("first line\nthe last one")))).startswith(
        "training failed: the last one;"
    )
