"""Tasks in this process or over Ray actors, each taking the next task when it is free: how images are encoded
and made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from medsd_ray.errors import InputError, RunError
from medsd_ray.ray_cluster import ensure_ray

Task = TypeVar("Task")


class _Actor:
    def __init__(self, worker: Any):
        self.worker = worker

    def ready(self) -> None: ...

    def run(self, task: Any) -> Any:
        return self.worker.run(task)


def run_tasks(
    worker: Any, tasks: Sequence[Task], num_workers: int, use_gpu: bool = False
) -> Iterator[tuple[Task, Any]]:
    """Yields (task, `worker.run(task)`) as they end; one worker runs in this process, several as Ray actors.

    `worker` travels once, through Ray's object store, so that workers need no path or cache of this machine.
    An actor that never starts gets no task. Raises what a task raised, and RunError where a worker died.
    """
    if num_workers == 1:
        yield from ((task, worker.run(task)) for task in tasks)
    elif tasks:
        yield from _over_actors(worker, tasks, num_workers, use_gpu)


def _over_actors(
    worker: Any, tasks: Sequence[Task], num_workers: int, use_gpu: bool
) -> Iterator[tuple[Task, Any]]:
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    ensure_ray(num_workers)
    if use_gpu and not ray.cluster_resources().get("GPU"):
        raise InputError("no GPU in this Ray cluster; leave --use-gpu out")
    # "DEFAULT": also in a trial of Ray Tune, whose own placement group has no room for workers and would hold
    # them.
    kind: Any = ray.remote(num_cpus=1, num_gpus=int(use_gpu), scheduling_strategy="DEFAULT")(_Actor)
    shared = ray.put(worker)
    actors = [kind.remote(shared) for _ in range(min(num_workers, len(tasks)))]
    running: dict[Any, tuple[Any, Task | None]] = {actor.ready.remote(): (actor, None) for actor in actors}
    queue, left = iter(tasks), len(tasks)
    try:
        while left:
            (finished,), _ = ray.wait(list(running), num_returns=1)
            actor, task = running.pop(finished)
            result = ray.get(finished)
            if task is not None:
                left -= 1
                yield task, result
            if (following := next(queue, None)) is not None:
                running[actor.run.remote(following)] = (actor, following)
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, (InputError, RunError)) else error from None
    except RayActorError as error:
        raise RunError("a Ray worker died; run the same command again, what is finished is kept") from error
    finally:
        for actor in actors:
            ray.kill(actor)
