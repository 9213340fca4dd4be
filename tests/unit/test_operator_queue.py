from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import pytest

from medsd_ray.operator.controller import queue as queue_module
from medsd_ray.operator.controller.queue import Queue, Retry

LIMIT_S = 20


def work(
    queue: Queue[str],
    handle: Callable[[str], Awaitable[float | None]],
    done: Callable[[], bool],
    workers: int = 3,
) -> None:
    """Runs the workers until it is done, and a little longer: what should not happen gets its chance."""

    async def run() -> None:
        tasks = [asyncio.create_task(queue.work(handle)) for _ in range(workers)]
        end = time.monotonic() + LIMIT_S
        while not done() and time.monotonic() < end:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


def test_a_key_that_is_added_twice_is_handled_once():
    queue, seen = Queue[str](), []

    async def handle(key: str) -> None:
        seen.append(key)

    for key in ("a", "b", "a", "a"):
        queue.add(key)
    work(queue, handle, lambda: len(seen) >= 2)
    assert sorted(seen) == ["a", "b"] and queue.waiting() == 0


def test_one_worker_at_a_time_has_a_key_and_what_comes_in_between_comes_after():
    queue, busy, seen = Queue[str](), set(), []

    async def handle(key: str) -> None:
        assert key not in busy
        busy.add(key)
        if len(seen) < 3:
            queue.add(key)
        await asyncio.sleep(0.02)
        seen.append(key)
        busy.discard(key)

    queue.add("a")
    work(queue, handle, lambda: len(seen) >= 4)
    assert seen == ["a"] * 4


def test_keys_are_due_when_they_said_and_the_earliest_time_wins():
    queue, seen = Queue[str](), {}
    start = time.monotonic()

    async def handle(key: str) -> float | None:
        seen.setdefault(key, []).append(time.monotonic() - start)
        return 0.2 if key == "again" and len(seen[key]) < 2 else None

    queue.add("later", 60)
    queue.add("sooner", 60)
    queue.add("sooner", 0.1)
    queue.add("sooner", 30)
    queue.add("again")
    work(queue, handle, lambda: len(seen.get("again", [])) == 2 and "sooner" in seen)
    assert set(seen) == {"sooner", "again"}
    assert seen["sooner"][0] >= 0.1 and len(seen["sooner"]) == 1
    assert seen["again"][1] - seen["again"][0] >= 0.2


def test_errors_wait_longer_each_time_until_one_goes_well(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(queue_module, "FIRST_BACKOFF_S", 0.1)
    queue, times = Queue[str](), []

    async def handle(key: str) -> None:
        times.append(time.monotonic())
        if len(times) in (1, 2, 3, 5):
            raise RuntimeError("no")
        if len(times) == 4:
            queue.add(key)

    queue.add("a")
    with caplog.at_level(logging.ERROR):
        work(queue, handle, lambda: len(times) >= 6, workers=1)
    assert [record.getMessage().rsplit(" again in ")[1] for record in caplog.records] == [
        "0.1 s",
        "0.2 s",
        "0.4 s",
        "0.1 s",
    ]
    assert len(times) == 6 and times[2] - times[1] >= 0.2


def test_what_goes_by_itself_takes_one_line(caplog: pytest.LogCaptureFixture):
    queue, seen = Queue[str](), []

    async def handle(key: str) -> None:
        seen.append(key)
        raise Retry("the API server does not answer")

    queue.add("a", 0)
    work(queue, handle, lambda: bool(seen))
    assert caplog.records[0].getMessage() == "a: the API server does not answer; again in 0.5 s"
    assert not caplog.records[0].exc_info


def test_a_forgotten_key_is_not_handled():
    queue, seen = Queue[str](), []

    async def handle(key: str) -> None:
        seen.append(key)

    queue.add("a", 0.05)
    queue.add("b", 0.1)
    queue.forget("a")
    work(queue, handle, lambda: "b" in seen)
    assert seen == ["b"]


def test_a_queue_without_workers_is_overdue():
    queue = Queue[str]()
    assert queue.oldest() == 0
    queue.add("a")
    queue.add("b", 60)
    time.sleep(0.02)
    assert queue.waiting() == 1 and queue.oldest() >= 0.02
