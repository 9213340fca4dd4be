"""`prepare` to a real S3 server: the same shards as in a folder, and stops are gone on from there too."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsd_ray.data.prepare import prepare
from medsd_ray.data.shards import SPLITS, ShardWriter, iter_samples
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.errors import InputError
from medsd_ray.storage import open_storage


def make(dest: str, size: int = 16) -> None:
    prepare(SourceRequest("30", "phantom", size=size), dest, shard_size="30KiB")


def test_s3_holds_what_a_folder_would(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    make(str(tmp_path))
    close, left = ShardWriter._close, 2

    def interrupted(writer: ShardWriter) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        close(writer)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ShardWriter, "_close", interrupted)
        make(s3)
    store, folder = open_storage(s3), open_storage(tmp_path)
    assert store.exists("train/shard-00001.tar") and not store.exists("index.json")
    make(s3)
    assert store.list() == folder.list()
    assert all(store.read(key) == folder.read(key) for key in store.list())
    assert sum(1 for split in SPLITS for _ in iter_samples(s3, split)) == 30
    make(s3)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(InputError, match="differ in size"):
        make(s3, size=24)


def test_a_missing_bucket_is_said_before_the_source_is_read(s3: str, tmp_path: Path):
    with pytest.raises(InputError, match="there is no bucket 'medsd-absent'"):
        prepare(SourceRequest(str(tmp_path / "absent"), size=16), "s3://medsd-absent/shards")
