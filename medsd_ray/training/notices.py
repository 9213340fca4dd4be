"""What a worker has to say at once, past a store that may take no writes: by the key-value store of Ray."""

from __future__ import annotations

import contextlib
import json
import uuid

_NAMESPACE = b"medsd-notices"


def new_topic() -> str:
    """A name of its own for the notices of one run's workers."""
    return uuid.uuid4().hex


def notify(topic: str, notices: list[str]) -> None:
    """Says all that one worker has had to say so far."""
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(topic.encode(), json.dumps(notices).encode(), namespace=_NAMESPACE)


def heard(topic: str) -> list[str]:
    """What was said by now; nothing where Ray does not answer."""
    from ray.experimental.internal_kv import _internal_kv_get

    with contextlib.suppress(Exception):  # a Ray that is gone ends the run itself, in better words
        if data := _internal_kv_get(topic.encode(), namespace=_NAMESPACE):
            return json.loads(data)
    return []


def forget(topic: str) -> None:
    """Removes what was said."""
    from ray.experimental.internal_kv import _internal_kv_del

    with contextlib.suppress(Exception):  # it goes with Ray
        _internal_kv_del(topic.encode(), namespace=_NAMESPACE)
