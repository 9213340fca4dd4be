"""The logs of an attempt go to the run's storage before its cluster goes: the driver's, the workers' and
Kubernetes' events.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medsd_ray.retries import with_retries
from medsd_ray.runs.names import DRIVER_LOG, EVENTS, worker_log
from medsd_ray.storage import Storage

TAIL_BYTES = 1 << 20


TAIL_LINES = 20_000


WORKERS_S = 60
"""For all workers' logs together: their nodes, and their GPUs, wait for it."""


def archive(
    store: Storage, driver_log: Path, events: list[dict[str, Any]], say: Callable[[str], None]
) -> None:
    """Writes driver.log, events.json and workers/NODE/FILE. What fails is said, and ends nothing."""
    try:
        with_retries(lambda: store.upload(driver_log, DRIVER_LOG))
        store.write_json(EVENTS, events)
    except Exception as error:
        say(f"the logs of this attempt were not archived: {error}")
        return
    if address := os.environ.get("RAY_ADDRESS"):
        _archive_workers(store, address, say)


def _archive_workers(store: Storage, address: str, say: Callable[[str], None]) -> None:
    def collect() -> None:
        for node in living_nodes(address):
            try:
                for name, data in worker_logs(address, node.node_id):
                    store.write(worker_log(node.node_ip, name), data)
            except Exception as error:  # the other nodes' are of use too
                say(f"the workers' logs on node {node.node_ip} were not archived: {error}")

    def try_it() -> None:
        try:
            collect()
        except Exception as error:
            say(f"the workers' logs were not archived: {error}")

    # A node that has just gone may leave a request unanswered for minutes.
    thread = threading.Thread(target=try_it, name="worker-logs", daemon=True)
    thread.start()
    thread.join(WORKERS_S)
    if thread.is_alive():
        say(f"not all workers' logs were archived: reading them took longer than {WORKERS_S} s")


def living_nodes(address: str) -> list[Any]:
    from ray.util.state import list_nodes

    return list_nodes(
        address=address, filters=[("state", "=", "ALIVE")], limit=10_000, raise_on_missing_output=False
    )


def worker_logs(address: str, node_id: str) -> Iterator[tuple[str, bytes]]:
    """(file, its end) of what every Ray worker on a node has printed, if anything."""
    from ray.util.state import get_log, list_logs

    files = list_logs(address=address, node_id=node_id, glob_filter="worker-*")
    for name in sorted(name for group in files.values() for name in group):
        chunks: Any = get_log(address=address, node_id=node_id, filename=name, tail=TAIL_LINES, encoding=None)
        end = b""
        for chunk in chunks:
            end = (end + chunk)[-TAIL_BYTES:]
        if end.strip():
            yield name, end
