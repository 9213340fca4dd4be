"""One way to read and write, for data and checkpoints alike: a plain folder or `s3://bucket/prefix`.

Settings for S3 are the standard AWS ones (environment, `~/.aws`); `AWS_ENDPOINT_URL` points at any S3 server.
A write appears under its name whole or not at all: folders write to a hidden file and rename it, S3 puts
objects atomically. A multi-file output is complete when its `COMPLETE` file is there: it is written last and
holds each file's size and SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medsd_ray.errors import InputError

COMPLETE = "COMPLETE"


_CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class FileInfo:
    stamp: str  # changes when the file does
    modified: float  # seconds since 1970


class Storage(ABC):
    """A tree of files under one address. Keys are relative POSIX paths."""

    url: str

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The file's bytes. Raises FileNotFoundError where there is none."""

    @abstractmethod
    def write(self, key: str, data: bytes) -> None: ...

    @abstractmethod
    def download(self, key: str, path: Path, *, parallel: bool = True) -> None:
        """Copies to `path`, which appears whole; not `parallel` for a caller that copies several files at a
        time itself.

        Raises FileNotFoundError where the key is absent.
        """

    @abstractmethod
    def upload(self, path: Path, key: str) -> None: ...

    @abstractmethod
    def list(self, prefix: str = "") -> list[str]:
        """Keys of all files whose key starts with `prefix`, sorted."""

    @abstractmethod
    def level(self, folder: str = "") -> tuple[list[str], dict[str, FileInfo]]:
        """Names of the folders and of the files right in one folder, without what is below them; empty where
        it is absent.
        """

    @abstractmethod
    def exists(self, key: str) -> bool: ...

    @abstractmethod
    def delete(self, key: str) -> None:
        """Removes one file; no error where it is absent."""

    @abstractmethod
    def child(self, path: str) -> Storage: ...

    # --- what every store shares

    def read_json(self, key: str):
        return json.loads(self.read(key))

    def write_json(self, key: str, value) -> None:
        self.write(key, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())

    def delete_tree(self, prefix: str) -> None:
        """Removes all under `prefix/`, its COMPLETE mark first, so that a half-deleted tree is never taken
        for whole.
        """
        base = prefix.rstrip("/") + "/"
        keys = self.list(base)
        for key in sorted(keys, key=lambda k: k != base + COMPLETE):
            self.delete(key)

    def mark_complete(self, files: dict[str, dict]) -> None:
        """Writes the COMPLETE mark: `{name: {"bytes": int, "sha256": str}}` of every file of this output."""
        self.write_json(COMPLETE, {"files": files})

    def complete(self) -> dict[str, dict] | None:
        """The files of a finished output, or None where it is not finished."""
        try:
            return self.read_json(COMPLETE)["files"]
        except FileNotFoundError:
            return None

    def upload_tree(self, folder: Path) -> None:
        """Copies a folder here, COMPLETE last."""
        files = {}
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            key = path.relative_to(folder).as_posix()
            if key != COMPLETE:
                self.upload(path, key)
                files[key] = describe(path)
        self.mark_complete(files)

    def download_tree(self, folder: Path, keys: Iterable[str] | None = None) -> None:
        """Copies all files (or `keys`) to a local folder; those named in COMPLETE are checked against it."""
        known = self.complete() or {}
        for key in self.list() if keys is None else keys:
            target = folder / key
            self.download(key, target)
            if key in known and sha256_file(target) != known[key]["sha256"]:
                target.unlink()
                raise InputError(
                    f"{self.url}/{key}: its checksum differs from COMPLETE's; copy or make it anew"
                )


def describe(path: Path) -> dict:
    """Size in bytes and SHA-256 of a file, as COMPLETE and the shard indexes record them."""
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
