"""Shards on the local disk: checked, fetched once a node, refetched once, or refused by name."""

from __future__ import annotations

import hashlib
import multiprocessing
from pathlib import Path

import pytest

from medsd_ray.data.cache import ShardCache
from medsd_ray.data.shards import Index, Shard
from medsd_ray.errors import InputError
from medsd_ray.storage import S3Storage, Storage, open_storage

CONTENTS = [bytes([number]) * 3000 for number in range(3)]


def store_shards(url: str) -> tuple[Storage, Index]:
    store = open_storage(url)
    for number, data in enumerate(CONTENTS):
        store.write(f"shard-{number:05d}.tar", data)
    shards = (
        Shard(f"shard-{n:05d}.tar", 1, len(d), hashlib.sha256(d).hexdigest()) for n, d in enumerate(CONTENTS)
    )
    return store, Index("image", "train", tuple(shards), {})


def fetch(url: str, index: Index, folder: str, queue) -> None:
    cache = ShardCache(open_storage(url), index, folder)
    queue.put([cache.path(shard).read_bytes() for shard in range(3)])


class Flaky(S3Storage):
    """A real store whose first `broken` transfers lose the file's end."""

    broken = 0

    def download(self, key: str, path: Path, *, parallel: bool = True) -> None:
        super().download(key, path, parallel=parallel)
        if self.broken:
            self.broken -= 1
            path.write_bytes(path.read_bytes()[:-1])


def flaky(s3: str, broken: int) -> tuple[Flaky, Index]:
    plain, index = store_shards(s3)
    assert isinstance(plain, S3Storage)
    store = Flaky(plain.bucket, plain.prefix)
    store.broken = broken
    return store, index


def test_a_plain_folder_is_read_in_place(tmp_path: Path):
    store, index = store_shards(str(tmp_path / "shards"))
    cache = ShardCache(store, index, str(tmp_path / "cache"))
    assert cache.path(1) == tmp_path / "shards/shard-00001.tar"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_a_damaged_shard_in_a_folder_is_named(tmp_path: Path, damage: str):
    store, index = store_shards(str(tmp_path))
    path = tmp_path / "shard-00001.tar"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(CONTENTS[1][:-1] if damage == "truncated" else b"x" * len(CONTENTS[1]))
    cache = ShardCache(store, index, None)
    assert cache.path(0).read_bytes() == CONTENTS[0]
    with pytest.raises(
        InputError, match=r"shard-00001\.tar: (missing|corrupt shard).* run prepare or encode again"
    ):
        cache.path(1)


def test_shards_of_a_store_are_fetched_ahead_and_kept(s3: str, tmp_path: Path):
    store, index = store_shards(s3)
    cache = ShardCache(store, index, str(tmp_path))
    cache.prefetch(range(3))
    assert [cache.path(shard).read_bytes() for shard in range(3)] == CONTENTS
    for shard in index.shards:
        store.delete(shard.name)
    later = ShardCache(store, index, str(tmp_path))
    assert [later.path(shard).read_bytes() for shard in range(3)] == CONTENTS


def test_processes_of_a_node_share_the_files(s3: str, tmp_path: Path):
    _, index = store_shards(s3)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=fetch, args=(s3, index, str(tmp_path), queue)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=60) for _ in processes] == [CONTENTS] * 4
    for process in processes:
        process.join()
    assert len(list(tmp_path.glob("*.tar"))) == 3


def test_a_broken_transfer_is_made_again(s3: str, tmp_path: Path):
    store, index = flaky(s3, broken=1)
    assert ShardCache(store, index, str(tmp_path)).path(2).read_bytes() == CONTENTS[2]
    assert store.broken == 0


def test_what_stays_broken_is_refused_and_not_kept(s3: str, tmp_path: Path):
    store, index = flaky(s3, broken=2)
    with pytest.raises(InputError, match=r"s3://.*/shard-00002\.tar: corrupt shard"):
        ShardCache(store, index, str(tmp_path)).path(2)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


def test_a_file_that_was_damaged_in_the_cache_is_fetched_anew(s3: str, tmp_path: Path):
    store, index = store_shards(s3)
    path = ShardCache(store, index, str(tmp_path)).path(0)
    path.write_bytes(b"x" * len(CONTENTS[0]))
    assert ShardCache(store, index, str(tmp_path)).path(0).read_bytes() == CONTENTS[0]


def test_a_shard_that_the_store_lacks_is_named(s3: str, tmp_path: Path):
    store, index = store_shards(s3)
    store.delete("shard-00001.tar")
    with pytest.raises(InputError, match=r"shard-00001\.tar: missing, though the index names it"):
        ShardCache(store, index, str(tmp_path)).path(1)
