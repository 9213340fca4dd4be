"""A plain folder as a store."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from medsd_ray.errors import InputError
from medsd_ray.storage.base import FileInfo, Storage


class FolderStorage(Storage):
    """The files below a folder, which need not be there yet."""

    def __init__(self, root: Path):
        self.root = root
        self.url = str(root)

    def _path(self, key: str) -> Path:
        path = (self.root / key).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise InputError(f"{key!r} leads out of {self.root}: keys stay below their folder")
        return path

    @contextlib.contextmanager
    def _whole(self, path: Path) -> Iterator[Path]:
        """A hidden name beside `path` that becomes `path` when the block ends well."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise InputError(
                f"cannot write to {path.parent}: {error.strerror}; choose another folder"
            ) from error
        part = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
        try:
            yield part
            os.replace(part, path)
        except PermissionError as error:
            raise InputError(f"cannot write {path}: permission denied; choose another folder") from error
        finally:
            part.unlink(missing_ok=True)

    def read(self, key: str, most: int | None = None) -> bytes:
        with self._path(key).open("rb") as file:
            return file.read() if most is None else file.read(most + 1)

    def write(self, key: str, data: bytes) -> None:
        with self._whole(self._path(key)) as part:
            part.write_bytes(data)

    def download(self, key: str, path: Path, *, parallel: bool = True) -> None:
        with self._whole(path) as part:
            shutil.copyfile(self._path(key), part)

    def upload(self, path: Path, key: str) -> None:
        with self._whole(self._path(key)) as part:
            shutil.copyfile(path, part)

    def list(self, prefix: str = "") -> list[str]:
        base = self.root / prefix.rpartition("/")[0]
        if not base.is_dir():
            return []
        keys = (p.relative_to(self.root).as_posix() for p in base.rglob("*") if p.is_file())
        return sorted(k for k in keys if k.startswith(prefix) and not k.endswith(".part"))

    def level(self, folder: str = "") -> tuple[list[str], dict[str, FileInfo]]:
        folders, files = [], {}
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            os.scandir(self._path(folder)) as entries,
        ):
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.name)
                elif not entry.name.endswith(".part"):
                    with contextlib.suppress(FileNotFoundError):  # replaced or deleted since it was listed
                        stat = entry.stat()
                        files[entry.name] = FileInfo(
                            f"{stat.st_mtime_ns:x}-{stat.st_size:x}-{stat.st_ino:x}", stat.st_mtime
                        )
        return sorted(folders), files

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        path = self._path(key)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # an emptied folder goes too; one with files stays
            path.parent.rmdir()

    def delete_tree(self, prefix: str) -> None:
        super().delete_tree(prefix)
        shutil.rmtree(
            self._path(prefix), ignore_errors=True
        )  # what a list does not show: empty folders, halves of killed writes

    def child(self, path: str) -> Storage:
        return FolderStorage(self.root / path)
