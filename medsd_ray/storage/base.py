"""What every store can do, and the mark of a complete output."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsd_ray.documents import MOST_JSON_BYTES, DocumentError, json_object
from medsd_ray.errors import InputError
from medsd_ray.storage.regular_file import path_below

COMPLETE = "COMPLETE"
"""The file that is written last to an output of several files: their sizes and checksums."""
_CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; read in parts, so that memory stays flat."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class FileInfo:
    """A file as a listing shows it."""

    stamp: str
    """Changes when the file does."""
    bytes: int
    """Its size."""
    modified: float
    """Seconds since 1970."""


class Storage(ABC):
    """A tree of files under one address. Keys are relative POSIX paths."""

    url: str
    """The address, as messages show it."""

    @abstractmethod
    def read(self, key: str, most: int | None = None) -> bytes:
        """The file's bytes; of one that is larger than `most` bytes no more than one byte beyond them.

        Raises FileNotFoundError where there is none.
        """

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Writes a file, which appears whole; one of this name is replaced."""

    @abstractmethod
    def download(self, key: str, path: Path, *, parallel: bool = True) -> None:
        """Copies to `path`, which appears whole; not `parallel` for a caller that copies several files at a
        time itself.

        Raises FileNotFoundError where the key is absent.
        """

    @abstractmethod
    def upload(self, path: Path, key: str) -> None:
        """Copies a local file to `key`, where it appears whole."""

    @abstractmethod
    def list(self, prefix: str = "") -> list[str]:
        """Keys of all files whose key starts with `prefix`, sorted."""

    @abstractmethod
    def level(self, folder: str = "") -> tuple[list[str], dict[str, FileInfo]]:
        """Names of the folders and of the files right in one folder, without what is below them; empty where
        it is absent.
        """

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether there is a file of this name; a folder is none."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Removes one file; no error where it is absent."""

    @abstractmethod
    def child(self, path: str) -> Storage:
        """The tree below a folder, as a store of its own."""

    @abstractmethod
    def sync(self, keys: Iterable[str]) -> None:
        """Has files that were written, and the names of their folders, outlast a power cut."""

    # --- what every store shares

    def read_json(self, key: str) -> dict[str, Any]:
        """A JSON file's object. Raises FileNotFoundError, or DocumentError, a ValueError that names the file,
        where it is no JSON or another value than an object.
        """
        try:
            return json_object(self.read(key, MOST_JSON_BYTES))
        except DocumentError as error:
            raise DocumentError(f"{self.url}/{key}: {error}; copy it again, or make it anew") from error

    def write_json(self, key: str, value) -> None:
        """Writes a value as JSON."""
        self.write(key, to_json(value))

    def delete_tree(self, prefix: str) -> None:
        """Removes all under `prefix/`, its COMPLETE mark first, so that a half-deleted tree is never taken
        for whole.
        """
        base = prefix.rstrip("/") + "/"
        keys = self.list(base)
        for key in sorted(keys, key=lambda k: k != base + COMPLETE):
            self.delete(key)

    def mark_complete(self, files: dict[str, dict]) -> None:
        """Writes the COMPLETE mark: `{name: {"bytes": int, "sha256": str}}` of every file of this output.

        What it names outlasts a power cut before it does, so that none leaves a mark over half a file.
        """
        self.sync(files)
        self.write_json(COMPLETE, {"files": files})
        self.sync([COMPLETE])

    def complete(self) -> dict[str, dict] | None:
        """The files of a finished output, or None where it is not finished. Raises DocumentError, a
        ValueError, where the mark is damaged.
        """
        try:
            files = self.read_json(COMPLETE).get("files")
        except FileNotFoundError:
            return None
        if not isinstance(files, dict) or not all(map(_is_entry, files.values())):
            raise DocumentError(
                f"{self.url}/{COMPLETE}: damaged: it does not say the bytes and sha256 of each file; copy it "
                "again, or make it anew"
            )
        return files

    def upload_tree(self, folder: Path) -> None:
        """Copies a folder here, COMPLETE last."""
        files = {}
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            key = path.relative_to(folder).as_posix()
            if key != COMPLETE:
                self.upload(path, key)
                files[key] = entry_of_file(path)
        self.mark_complete(files)

    def download_tree(self, folder: Path, keys: Iterable[str] | None = None) -> None:
        """Copies all files (or `keys`) to a local folder; those named in COMPLETE are checked against it.

        Raises:
            FileNotFoundError: One of `keys` is absent.
            InputError: A file differs from COMPLETE, and its copy is removed; or no file below the folder can
                have a key as its name.
        """
        entries = self.complete() or {}
        for key in self.list() if keys is None else keys:
            target = path_below(folder, key)
            self.download(key, target)
            if key in entries and sha256_file(target) != entries[key]["sha256"]:
                target.unlink()
                raise InputError(
                    f"{self.url}/{key}: its checksum differs from COMPLETE's; copy or make it anew"
                )


def _is_entry(value: Any) -> bool:
    """Whether it is what `entry_of_file` gives."""
    return isinstance(value, dict) and isinstance(value.get("sha256"), str) and "bytes" in value


def to_json(value: Any) -> bytes:
    """A value as the JSON that `write_json` writes: indented, its keys sorted."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def entry_of_file(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file, as COMPLETE and the shard indexes record them."""
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def entry_of_bytes(data: bytes) -> dict[str, Any]:
    """The same of a file's contents."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
