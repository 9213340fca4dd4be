"""A work queue: each key is there once, with a time when it is due; one worker at a time has it; errors wait
longer each time.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 60.0


log = logging.getLogger(__name__)


class Retry(Exception):
    """An error that is expected to pass by itself. The key is tried again as after any other error, but the
    log gets one line in place of a traceback.
    """


class Queue(Generic[Key]):
    def __init__(self) -> None:
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = itertools.count()
        self._busy: set[Key] = set()
        self._errors: dict[Key, int] = {}
        self._changed = asyncio.Event()
        self.last_progress = time.monotonic()
        """When a worker last took or ended something, or had nothing to do."""

    def add(self, key: Key, delay: float = 0.0) -> None:
        """Makes a key due in `delay` seconds, or earlier if it was; one that a worker has, after that."""
        due = time.monotonic() + delay
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._heap, (due, next(self._order), key))
            self._changed.set()

    def forget(self, key: Key) -> None:
        """It is not due any more; what a worker does with it goes on."""
        self._due.pop(key, None)
        self._errors.pop(key, None)

    def waiting(self) -> int:
        """Keys that are due now and that no worker has."""
        now = time.monotonic()
        return sum(due <= now and key not in self._busy for key, due in self._due.items())

    def oldest(self) -> float:
        """Seconds that the one which waits longest is overdue."""
        now = time.monotonic()
        return max((now - due for key, due in self._due.items() if key not in self._busy), default=0.0)

    async def work(self, handle: Callable[[Key], Awaitable[float | None]]) -> None:
        """One worker, for ever. `handle` returns the seconds after which the key is due again, None for not
        at all.
        """
        while True:
            key = await self._take()
            try:
                retry_after = await handle(key)
            except Exception as error:
                errors = self._errors[key] = self._errors.get(key, 0) + 1
                retry_after = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(errors - 1, 10))
                log.error(
                    "%s: %s; again in %.1f s", key, error, retry_after, exc_info=not isinstance(error, Retry)
                )
            else:
                self._errors.pop(key, None)
            finally:
                self._busy.discard(key)
                self.last_progress = time.monotonic()
                self._changed.set()
            if retry_after is not None:
                self.add(key, retry_after)

    async def _take(self) -> Key:
        while True:
            self._changed.clear()
            key, wait = self._pop()
            if key is not None:
                self._busy.add(key)
                return key
            self.last_progress = time.monotonic()
            try:
                await asyncio.wait_for(self._changed.wait(), wait)
            except TimeoutError:
                continue

    def _pop(self) -> tuple[Key | None, float | None]:
        """The first key that is due and free; else the seconds until the next one is due."""
        now, held = time.monotonic(), []
        try:
            while self._heap:
                due, order, key = self._heap[0]
                if self._due.get(key) != due:  # forgotten, or due at another time by now
                    heapq.heappop(self._heap)
                elif due > now:
                    return None, due - now
                else:
                    heapq.heappop(self._heap)
                    if key not in self._busy:
                        del self._due[key]
                        return key, None
                    held.append((due, order, key))
            return None, None
        finally:
            for entry in held:
                heapq.heappush(self._heap, entry)
