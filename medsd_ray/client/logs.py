"""A FineTune's log: from its head pod while that is there, which has the output of the driver and all
workers; else from storage.

What the log itself does not say (waiting, retrying) goes to standard error, one line each time it changes.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from medsd_ray.client import display
from medsd_ray.client.kube import Head, Kube, NotFound, Unreachable
from medsd_ray.errors import InputError, Interrupted, RunError
from medsd_ray.storage import open_storage

POLL_S, RETRY_S, PATIENCE_S = 2.0, 10.0, 600
OVERLAP_S = 60
"""Asked for again after a broken connection; what was printed already is known by its time stamp."""
ARCHIVED = re.compile(r"attempt-(\d+)/driver\.log")
WAITING = ("Pending", "Queued", "Starting")
"""Phases in which the newest attempt has not yet run."""
Value = TypeVar("Value")


def print_newest(kube: Kube, name: str) -> None:
    """The log of the newest attempt. Raises NotFound; InputError where its pods are gone and its archive
    cannot be read.
    """
    item = kube.get(name)
    attempt = _attempt(item)
    head = kube.head(name, attempt) if attempt else None
    if head is not None and head.container_id is not None:
        with contextlib.suppress(NotFound):
            for _, line in kube.log(head, follow=False):
                print(line)
            return
    if display.phase(item) in WAITING or not print_archived(item, attempt):
        earlier = (
            f"; earlier attempts' logs are in {_archive(item)}" if attempt > 1 and _archive(item) else ""
        )
        _say(f"{_state(item)}; no log yet{earlier}")


def follow(kube: Kube, name: str) -> dict[str, Any]:
    """Prints all attempts' logs from the current one on, as they come, until the run ends. Returns the object
    as it ended.

    Raises NotFound, Interrupted where the object is deleted meanwhile, and RunError where the API server is
    away for long.
    """
    item, said, shown, done = kube.get(name), "", 0, set[str]()
    while True:
        attempt = _attempt(item)
        head = _patiently(lambda: kube.head(name, attempt)) if attempt else None  # noqa: B023 (called at once)
        if head is not None and head.container_id is not None and head.container_id not in done:
            done.add(head.container_id)
            shown = attempt
            _stream(kube, name, attempt, head)
        elif display.phase(item) in display.ENDED:
            for missed in range(shown + 1 if shown else attempt, attempt + 1):
                try:
                    print_archived(item, missed)
                except InputError as error:
                    _say(str(error))
            return item
        else:
            if _state(item) != said:
                said = _state(item)
                _say(said)
            time.sleep(POLL_S)
        try:
            item = _patiently(lambda: kube.get(name))
        except NotFound as error:
            raise Interrupted(f"{name} was deleted") from error


def _stream(kube: Kube, name: str, attempt: int, head: Head) -> None:
    """Prints a container's log until the container ends; a connection that breaks or falls silent is made
    anew.
    """
    last, last_at = "", None
    while True:
        since = None if last_at is None else int(time.monotonic() - last_at) + OVERLAP_S
        before = last
        try:
            for stamp, line in _patiently(lambda: kube.log(head, follow=True, since_s=since)):  # noqa: B023 (called at once)
                if stamp > before:
                    print(line, flush=True)
                    last, last_at = stamp, time.monotonic()
        except NotFound:
            return
        now = _patiently(lambda: kube.head(name, attempt))
        if now is None or now.container_id != head.container_id or not now.running:
            return
        time.sleep(POLL_S)


def _patiently(call: Callable[[], Value]) -> Value:
    """What `call` returns, once an API server answers it again. Raises RunError after PATIENCE_S."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except (Unreachable, RunError) as error:
            if time.monotonic() > end:
                raise RunError(f"{error} (for {PATIENCE_S}s)") from error
            _say(f"{error}; trying again")
            time.sleep(RETRY_S)


def print_archived(item: dict[str, Any], attempt: int) -> bool:
    """Prints an attempt's log from storage; False where there is none yet. Raises InputError where it cannot
    be read.
    """
    name, folder = item["metadata"]["name"], _archive(item)
    if not folder or not attempt:
        return False
    try:
        store = open_storage(folder)
        found = {int(match[1]): key for key in store.list() if (match := ARCHIVED.fullmatch(key))}
        if attempt not in found:
            return False
        text = store.read(found[attempt]).decode(errors="replace")
    except (InputError, RunError) as error:
        raise InputError(
            f"{name}: its pods are gone; their logs are in {folder}, which this machine cannot read: {error}"
        ) from error
    _say(f"{name}: its pods are gone; this is {store.url}/{found[attempt]}")
    print(text, end="" if text.endswith("\n") else "\n", flush=True)
    return True


def _archive(item: dict[str, Any]) -> str | None:
    return ((item.get("status") or {}).get("addresses") or {}).get("logs")


def _attempt(item: dict[str, Any]) -> int:
    return ((item.get("status") or {}).get("attempt") or {}).get("number", 0)


def _state(item: dict[str, Any]) -> str:
    message = (item.get("status") or {}).get("message", "")
    return f"{item['metadata']['name']}: {display.phase(item)}" + (f": {message}" if message else "")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
