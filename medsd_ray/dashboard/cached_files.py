"""What the pages read of a storage: each file once for each of its states, whoever asks and how often."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from medsd_ray.documents import MOST_JSON_BYTES, finite, parse_json
from medsd_ray.errors import InputError
from medsd_ray.storage import FileInfo, FolderStorage, Storage

KEPT = 20_000
"""Files whose contents are remembered, such as the curves of as many trials."""


def parse_finite_json(data: bytes) -> Any:
    """JSON as plain values; NaN and infinities become null."""
    value = parse_json(data)
    return finite(value) if b"NaN" in data or b"Infinity" in data else value


class CachedFiles:
    """A storage as the pages see it. Threads may share it."""

    def __init__(self, store: Storage):
        self.store = store
        self._known: OrderedDict[tuple[str, str], tuple[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def level(self, folder: str) -> tuple[list[str], dict[str, FileInfo]]:
        """Folders and files of one folder; nothing for one that is absent or closed to us."""
        try:
            return self.store.level(folder)
        except (InputError, PermissionError) as error:
            if folder and self._closed(error):
                return [], {}
            raise

    def _closed(self, error: Exception) -> bool:
        """Whether this one file or folder may not be read: it is a link that leads out of the root, or not
        ours.
        """
        return isinstance(error, PermissionError) or isinstance(self.store, FolderStorage)

    def get(self, key: str, stamp: str | None, parse: Callable[[bytes], Any], what: str = "") -> Any:
        """`parse` of the file's bytes, made once for each stamp; None where the file is absent (stamp None)
        or unreadable.

        `what` tells apart what different callers make of one file.
        """
        if stamp is None:
            return None
        with self._lock:
            known = self._known.get((key, what))
            if known and known[0] == stamp:
                self._known.move_to_end((key, what))
                return known[1]
        try:
            value = parse(self.store.read(key, MOST_JSON_BYTES))
        except (FileNotFoundError, ValueError):
            value = None
        except (InputError, PermissionError) as error:
            if not self._closed(error):
                raise
            value = None
        with self._lock:
            self._known[key, what] = stamp, value
            self._known.move_to_end((key, what))
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        return value

    def json(self, folder: str, name: str, files: dict[str, FileInfo]) -> dict[str, Any]:
        """A JSON object that is one of a folder's `files`; empty where it is absent or something else."""
        value = self.get(join(folder, name), files[name].stamp if name in files else None, parse_finite_json)
        return value if isinstance(value, dict) else {}


def join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def inside(path: str) -> bool:
    """Whether a path from outside may be a folder below the root: plain names, one below the other."""
    return path == "" or all(
        part not in ("", ".", "..") and part.isprintable() and "\\" not in part for part in path.split("/")
    )
