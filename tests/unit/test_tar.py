"""One reader of tars: the same members of a file and of bytes, whatever the headers."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from medsd_ray.data.tar import members, read_tar
from medsd_ray.errors import InputError

FILES = {"a.png": b"image", "a.txt": b"", "b.mask.png": b"x" * 512, "b.txt": b"y" * 700}


def tar_of(files: dict[str, bytes], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        (tarfile.USTAR_FORMAT, ""),
        (tarfile.USTAR_FORMAT, "é"),
        (tarfile.PAX_FORMAT, ""),
        (tarfile.PAX_FORMAT, "é"),
        (tarfile.PAX_FORMAT, "long" * 40),
        (tarfile.GNU_FORMAT, ""),
        (tarfile.GNU_FORMAT, "long" * 40),
    ],
)
def test_members_and_samples(tmp_path: Path, kind: int, prefix: str):
    files = {prefix + name: data for name, data in FILES.items()}
    data = tar_of(files, kind)
    (tmp_path / "shard.tar").write_bytes(data)
    found = members(tmp_path / "shard.tar")
    assert {m.name: data[m.offset : m.offset + m.size] for m in found} == files
    assert dict(read_tar(data, "shard.tar")) == {
        f"{prefix}a": {"png": b"image", "txt": b""},
        f"{prefix}b": {"mask.png": b"x" * 512, "txt": b"y" * 700},
    }


def test_folders_are_no_members(tmp_path: Path):
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a.png").write_bytes(b"image")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(tmp_path / "room", "room")
    assert [m.name for m in members(tmp_path / "shard.tar")] == ["room/a.png"]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_a_negative_size_ends_the_reading(tmp_path: Path, kind: int):
    """A reader that believed it would go back, and round for ever."""
    name = "a.png" if kind == tarfile.USTAR_FORMAT else "é.png"
    whole = bytearray(tar_of({name: b"image"}, kind))
    last = whole.index(b"image") - tarfile.BLOCKSIZE
    header = tarfile.TarInfo("a.png").tobuf(tarfile.USTAR_FORMAT)
    block = bytearray(header.replace(b"00000000000\x00", b"-0000002000\x00", 1))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)  # the header's own checksum
    whole[last : last + tarfile.BLOCKSIZE] = block
    (tmp_path / "shard.tar").write_bytes(whole)
    for read in (lambda: members(tmp_path / "shard.tar"), lambda: list(read_tar(bytes(whole), "shard.tar"))):
        with pytest.raises(InputError, match=r"shard\.tar: not a tar file"):
            read()


def test_a_cut_tar_is_refused():
    with pytest.raises(InputError, match=r"shard\.tar: not a tar file"):
        list(read_tar(tar_of(FILES)[:3300], "shard.tar"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no tar at all",
        b"\x1f\x8b" + bytes(600),
        b"BZh9" + bytes(600),
        bytes(range(256)) * 4,
        b"x" * 1024,
    ],
)
def test_what_is_no_tar_is_said_in_one_line(data: bytes):
    with pytest.raises(InputError, match="shard: not a tar file") as caught:
        list(read_tar(data, "shard"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_not_unpacked(mode: Any):
    """It may unpack to any size."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
    with pytest.raises(InputError, match="not a tar file"):
        list(read_tar(file.getvalue(), "shard"))
