"""Shards on this node's disk: fetched once a node, several at a time and ahead of need, and checked before
use.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import tempfile
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from medsd_ray.data.shards import Index, Shard
from medsd_ray.errors import InputError, RefusedError
from medsd_ray.storage import FolderStorage, Storage, sha256_file

FETCH_THREADS = 8
"""Shards fetched at a time, each by one thread and connection: threads of threads cost Python half as much
time again.
"""


def default_folder() -> Path:
    """A folder in the temporary directory that all of this user's workers on a node share."""
    folder = Path(tempfile.gettempdir()) / f"medsd-{os.getuid()}" / "shards"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise InputError(f"{folder} belongs to another user; set data.cache to a folder of your own")
    return folder


class ShardCache:
    """Local, checked copies of a split's shards.

    A file's name in the cache is its checksum, so that worker processes and later runs share it without
    asking. Each process checks a file once before it reads it. Shards of a plain folder are read in place.
    """

    def __init__(self, store: Storage, index: Index, folder: str | None):
        """Starts with nothing fetched.

        Args:
            store: The split's own folder.
            index: The split's index.
            folder: Where copies are kept; `default_folder()` where it is None.

        Raises:
            InputError: The default folder belongs to another user.
        """
        self.store, self.index = store, index
        self.folder = (
            None if isinstance(store, FolderStorage) else Path(folder) if folder else default_folder()
        )
        self._pool = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch")
        self._lock, self._random = threading.Lock(), random.Random()
        self._ready: dict[int, Future[Path]] = {}

    def prefetch(self, shards: Iterable[int]) -> None:
        """Starts fetching shards (numbers in the index) that are not here yet."""
        with self._lock:
            missing = [shard for shard in shards if shard not in self._ready]
            # A node's workers want the same ones: in an order of its own each fetches a part, rather than
            # wait for another's.
            self._random.shuffle(missing)
            for shard in missing:
                self._ready[shard] = self._pool.submit(self._fetch, self.index.shards[shard])

    def path(self, shard: int) -> Path:
        """The local file of a shard, waiting for it. Raises InputError where it is missing or corrupt."""
        self.prefetch([shard])
        return self._ready[shard].result()

    def _fetch(self, shard: Shard) -> Path:
        where = f"{self.store.url}/{shard.name}"
        try:
            if self.folder is None:
                assert isinstance(self.store, FolderStorage)
                path = self.store.file(shard.name)
                if not _whole(path, shard):
                    raise _corrupt(where)
                return path
            return self._download(shard, where)
        except FileNotFoundError as error:
            raise InputError(
                f"{where}: missing, though the index names it; copy it again or run prepare or encode again"
            ) from error

    def _download(self, shard: Shard, where: str) -> Path:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{shard.sha256}{Path(shard.name).suffix}"
        if _whole(path, shard):
            return path
        with (self.folder / f"{shard.sha256}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the node's other workers wait here instead of fetching too
            if _whole(path, shard):
                return path
            fresh = path.with_suffix(".unchecked")
            for _ in range(2):  # a transfer may break; a shard that is corrupt at its source stays so
                self._copy(shard.name, fresh)
                if _whole(fresh, shard):
                    fresh.rename(path)
                    return path
            fresh.unlink()
        raise _corrupt(where)

    def _copy(self, name: str, path: Path) -> None:
        try:
            self.store.download(name, path, parallel=False)
        except RefusedError as error:
            if getattr(error.__cause__, "errno", None) != errno.ENOSPC:
                raise
            raise InputError(
                f"{self.folder}: this disk is full; set data.cache to a folder on a larger one"
            ) from error


def _whole(path: Path, shard: Shard) -> bool:
    return path.is_file() and path.stat().st_size == shard.bytes and sha256_file(path) == shard.sha256


def _corrupt(where: str) -> InputError:
    return InputError(
        f"{where}: corrupt shard: its checksum differs from the index's; copy it again or run prepare or "
        "encode again"
    )
