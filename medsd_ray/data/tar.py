"""Tar files: where their members lie, and the samples of a WebDataset tar."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from medsd_ray.errors import InputError

BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar: its name, and the bytes [offset, offset + size) of the tar that it is."""

    name: str
    offset: int
    size: int

    @property
    def key(self) -> str:
        """The sample that it belongs to: the name up to its first dot."""
        return self.name.partition(".")[0]

    @property
    def extension(self) -> str:
        """What it is of its sample, such as `png`: the name after its first dot."""
        return self.name.partition(".")[2]


def members(path: Path) -> list[Member]:
    """The files in a tar, in order; only headers are read. Raises InputError where it is no tar."""
    with path.open("rb") as file:
        return _members(lambda at: os.pread(file.fileno(), BLOCK, at), file, str(path))


def read_tar(data: bytes, where: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields (key, {extension: bytes}) of each sample of a tar's bytes, in order.

    A sample is the members in a row that have the same key. Raises InputError, with `where` in it, where
    `data` is no tar.
    """
    key, fields = None, {}
    for member in _members(lambda at: data[at : at + BLOCK], io.BytesIO(data), where):
        if member.offset + member.size > len(data):
            raise InputError(f"{where}: not a tar file (unexpected end of data); run prepare again")
        if key is not None and member.key != key:
            yield key, fields
            fields = {}
        key = member.key
        fields[member.extension] = data[member.offset : member.offset + member.size]
    if key is not None:
        yield key, fields


def _members(header_at: Callable[[int], bytes], file: BinaryIO, where: str) -> list[Member]:
    """`header_at` gives the block at an offset, which is shorter or empty at the end of the tar; `file` is
    the same tar, to be read from its start.
    """
    try:
        return [_checked(member, where) for member in _ustar_members(header_at)]
    except ValueError:  # a tar of another kind, which tarfile knows to read
        pass
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:  # not compressed: that may unpack to any size
            files = (Member(info.name, info.offset_data, info.size) for info in tar if info.isfile())
            return [_checked(member, where) for member in files]
    except (tarfile.TarError, EOFError, OverflowError, ValueError) as error:
        said = " ".join(str(error).split())[:120]
        raise InputError(f"{where}: not a tar file ({said}); run prepare again") from error


def _checked(member: Member, where: str) -> Member:
    if member.size < 0:  # it would lead back, and a reader round for ever
        raise InputError(f"{where}: not a tar file (one of {member.size} bytes in it); run prepare again")
    return member


def _ustar_members(header_at: Callable[[int], bytes]) -> Iterator[Member]:
    """The members of a tar of plain ustar headers (POSIX.1-1988), as `prepare` writes them.

    Raises ValueError at any other header, and where there is none. Each worker reads all headers of a shard
    for its part of the images: by tarfile, a node of eight would spend longer on headers than on images.
    """
    at = 0
    while (header := header_at(at)).strip(b"\0"):
        prefix = header[345:500].strip(b"\0")
        if header[257:262] != b"ustar" or header[156:157] not in (b"0", b"\0") or prefix:
            raise ValueError("not a plain ustar header")
        size = int(header[124:136].rstrip(b"\0 "), 8)
        yield Member(header[:100].rstrip(b"\0").decode(), at + BLOCK, size)
        at += BLOCK + -(-size // BLOCK) * BLOCK
    if not at:
        raise ValueError("no header")
