"""A plain folder as a store."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from medsd_ray.errors import RefusedError
from medsd_ray.storage.base import FileInfo, Storage
from medsd_ray.storage.regular_file import IrregularError, path_below, regular_file

NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
REFUSALS = NO_SPACE | {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
    errno.ELOOP,
}  # fmt: skip
"""What a file system answers and would answer again; what one on a network may say once is not among it."""


class FolderStorage(Storage):
    """The files below a folder, which need not be there yet."""

    def __init__(self, root: Path):
        self.root = root
        self.url = str(root)

    def _path(self, key: str) -> Path:
        return path_below(self.root, key)

    def file(self, key: str) -> Path:
        """The path of a file that can be read. Raises FileNotFoundError where there is none, InputError where
        it is no regular file below the folder.
        """
        try:
            return regular_file(self._path(key))
        except IsADirectoryError as error:
            raise FileNotFoundError(errno.ENOENT, "a folder is no file", str(self.root / key)) from error

    def read(self, key: str, most: int | None = None) -> bytes:
        with self.file(key).open("rb") as file:
            return file.read() if most is None else file.read(most + 1)

    def write(self, key: str, data: bytes) -> None:
        with whole_file(self._path(key)) as part:
            part.write_bytes(data)

    def download(self, key: str, path: Path, *, parallel: bool = True) -> None:
        source = self.file(key)
        with whole_file(path) as part:
            shutil.copyfile(source, part)

    def upload(self, path: Path, key: str) -> None:
        with whole_file(self._path(key)) as part:
            shutil.copyfile(path, part)

    def list(self, prefix: str = "") -> list[str]:
        base = self.root / prefix.rpartition("/")[0]
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            regular_file(base)  # a file, or in words that it cannot be there
            return []
        if not base.is_dir():
            return []
        keys = (p.relative_to(self.root).as_posix() for p in base.rglob("*") if p.is_file())
        return sorted(k for k in keys if k.startswith(prefix) and not k.endswith(".part"))

    def level(self, folder: str = "") -> tuple[list[str], dict[str, FileInfo]]:
        folders, files = [], {}
        here = self._path(folder)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(here) as entries:
            for entry in entries:
                # A link in a circle, or what was replaced or deleted since it was listed.
                with contextlib.suppress(OSError, RuntimeError):
                    if entry.is_dir():
                        if not entry.is_symlink() or not here.is_relative_to(Path(entry.path).resolve()):
                            folders.append(entry.name)
                    elif entry.is_file() and not entry.name.endswith(".part"):
                        stat = entry.stat()
                        stamp = f"{stat.st_mtime_ns:x}-{stat.st_size:x}-{stat.st_ino:x}"
                        files[entry.name] = FileInfo(stamp, stat.st_size, stat.st_mtime)
        return sorted(folders), files

    def exists(self, key: str) -> bool:
        try:
            self.file(key)
        except (FileNotFoundError, IrregularError):
            return False
        return True

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _refused(path):
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

    def sync(self, keys: Iterable[str]) -> None:
        paths = [self._path(key) for key in keys]
        for path in paths:
            with _refused(path):
                _fsync(path)
        # The names of the files, and of folders that were made for them.
        for folder in {folder for path in paths for folder in path.parents}:
            with contextlib.suppress(OSError):  # some file systems sync no folder, or it may not be opened
                _fsync(folder)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it. Raises RefusedError where none can be."""
    with _refused(path, also=errno.ENOENT):  # where no folder can be made, as in /proc
        path.mkdir(parents=True, exist_ok=True)


def _fsync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` that becomes `path` when the block ends well."""
    make_folder(path.parent)
    with _refused(path):
        if path.exists() and not path.is_file():  # a rename would put a file in the place of /dev/null
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise RefusedError(f"cannot write {path}: it is {kind}; choose another name")
    part = path.parent / f".{path.name[:200]}.{uuid.uuid4().hex[:8]}.part"
    with _refused(path, also=errno.ENOENT):  # where no file can be made, as in /proc
        part.touch()
    try:
        with _refused(path):
            yield part
            os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def _refused(path: Path, also: int = 0) -> Iterator[None]:
    """Turns an answer that does not change by asking again (`also`: this one too) into a RefusedError."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS and error.errno != also:
            raise
        mend = "free some space, or choose" if error.errno in NO_SPACE else "choose"
        raise RefusedError(f"cannot write {path}: {error.strerror}; {mend} another folder") from error
