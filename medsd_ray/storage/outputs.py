"""A finished measurement: the files it wrote, and whether it is the same one that is asked for again."""

from __future__ import annotations

import hashlib

from medsd_ray.errors import InputError
from medsd_ray.storage.base import Storage


def finished(store: Storage, name: str, settings: dict) -> dict | None:
    """What the file `name` of a finished output holds; None where `store` is empty.

    Raises InputError where it is unfinished or made with other `settings`.
    """
    if store.complete() is None:
        if store.list():
            raise InputError(
                f"{store.url}: not empty, and not finished; choose another --out or remove this one"
            )
        return None
    known = store.read_json(name) if store.exists(name) else {}
    if known.get("settings") != settings:
        raise InputError(
            f"{store.url}: holds something made with other settings; choose another --out or remove this one"
        )
    return known


def write_whole(store: Storage, files: dict[str, bytes]) -> None:
    """Writes an output's files, and COMPLETE after them."""
    for name, data in files.items():
        store.write(name, data)
    store.mark_complete(
        {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in files.items()}
    )
