"""Shards: what is written is read back, by others' tools too; nothing half-written or damaged passes for
whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from medsd_ray.data.shards import (
    Sample,
    ShardWriter,
    decode_sample,
    iter_samples,
    list_splits,
    open_split,
    read_index,
)
from medsd_ray.errors import InputError
from medsd_ray.storage import open_storage

RNG = np.random.default_rng(0)
SAMPLES = [
    Sample(
        key=f"sample{index:02d}",
        image=RNG.integers(0, 256, (16, 16, 3) if index % 3 == 0 else (16, 16), dtype=np.uint8),
        caption=f"Größe normal, number {index}",
        patient=f"patient{index // 2}",
        labels={
            "finding": "Effusion" if index % 2 else "No Finding",
            "age": index,
            "sick": bool(index % 2),
            "dose": 0.5,
        },
        masks={"lungs": np.full((16, 16), 255, np.uint8)} if index % 2 else {},
    )
    for index in range(12)
]
IN_DOMAINS = [
    replace(sample, domain=[None, "A", "B"][(index >= 3) + (index >= 8)])
    for index, sample in enumerate(SAMPLES)
]
MAX_BYTES = 20480


def write(
    folder: Path, samples: list[Sample], kind: str = "image", split: str = "train", max_bytes: int = MAX_BYTES
):
    writer = ShardWriter(open_storage(folder).child(split), max_bytes, kind, split, size=16)
    for sample in samples:
        writer.write(sample, {"key": sample.key})
    return writer.finish()


def assert_equal(one: Sample, other: Sample) -> None:
    assert (one.key, one.caption, one.patient, one.labels) == (
        other.key,
        other.caption,
        other.patient,
        other.labels,
    )
    for mine, yours in ((one.image, other.image), (one.masks.get("lungs"), other.masks.get("lungs"))):
        assert (mine is None) == (yours is None)
        if mine is not None and yours is not None:
            np.testing.assert_array_equal(mine, yours)


def test_samples_come_back_as_they_were(tmp_path: Path):
    write(tmp_path, SAMPLES)
    read = list(iter_samples(str(tmp_path), "train"))
    assert len(read) == len(SAMPLES)
    for one, other in zip(SAMPLES, read, strict=True):
        assert_equal(one, other)


def test_text_alone(tmp_path: Path):
    write(tmp_path, [Sample("one", None, "Clear lungs.", "p")], kind="text")
    (sample,) = iter_samples(str(tmp_path), "train")
    assert (sample.image, sample.caption) == (None, "Clear lungs.")
    assert read_index(str(tmp_path)).kind == "text"


def test_the_index_counts_sizes_and_checksums(tmp_path: Path):
    index = write(tmp_path, SAMPLES)
    assert index == read_index(str(tmp_path)) and index.meta == {"size": 16}
    assert len(index.shards) > 1 and index.samples == len(SAMPLES)
    for shard in index.shards:
        data = (tmp_path / "train" / shard.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)
        assert shard.bytes <= MAX_BYTES
    files = {path.name for path in (tmp_path / "train").rglob("*")}
    assert files == {shard.name for shard in index.shards} | {"index.json"}


def test_a_sample_larger_than_a_shard_gets_one_of_its_own(tmp_path: Path):
    assert [shard.samples for shard in write(tmp_path, SAMPLES[:3], max_bytes=1).shards] == [1, 1, 1]


def test_webdataset_reads_the_shards(tmp_path: Path):
    index = write(tmp_path, SAMPLES)
    urls = [str(tmp_path / "train" / shard.name) for shard in index.shards]
    read = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in read] == [sample.key for sample in SAMPLES]
    for sample, other in zip(SAMPLES, read, strict=True):
        assert sample.image is not None
        gray = sample.image.ndim == 2
        np.testing.assert_array_equal(
            np.stack([sample.image] * 3, -1) if gray else sample.image, other["png"]
        )
        assert other["txt"] == sample.caption
        assert other["json"] == {"patient": sample.patient, "labels": sample.labels}
        assert ("mask.lungs.png" in other) == ("lungs" in sample.masks)


def test_a_shard_is_of_one_domain(tmp_path: Path):
    index = write(tmp_path, IN_DOMAINS, max_bytes=10**6)
    assert index == read_index(str(tmp_path))
    assert [(shard.domain, shard.samples) for shard in index.shards] == [(None, 3), ("A", 5), ("B", 4)]
    read = [(sample.key, sample.domain) for sample in iter_samples(str(tmp_path), "train")]
    assert read == [(sample.key, sample.domain) for sample in IN_DOMAINS]


@pytest.mark.parametrize("samples", [SAMPLES, IN_DOMAINS], ids=["no domains", "domains"])
def test_an_interrupted_split_goes_on_shard_by_shard(tmp_path: Path, samples: list[Sample]):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    write(whole, samples)
    store = open_storage(parts).child("train")
    writer = ShardWriter(store, MAX_BYTES, "image", "train", size=16)
    for sample in samples[:8]:  # dropped without finish: as if killed
        writer.write(sample, {"key": sample.key})
    with pytest.raises(InputError, match="no finished 'train' split"):
        open_split(str(parts), "train")
    first = parts / "train" / "shard-00000.tar"
    written = first.stat().st_mtime_ns

    writer = ShardWriter(store, MAX_BYTES, "image", "train", size=16)
    done = [note["key"] for note in writer.notes]
    assert 0 < len(done) < 8 and done == [sample.key for sample in samples[: len(done)]]
    for sample in samples[len(done) :]:
        writer.write(sample, {"key": sample.key})
    writer.finish()
    assert first.stat().st_mtime_ns == written
    one, other = (
        {p.name: p.read_bytes() for p in (folder / "train").rglob("*")} for folder in (whole, parts)
    )
    assert one == other


def test_a_split_is_found_from_the_root_or_by_itself(tmp_path: Path):
    write(tmp_path, SAMPLES[:2])
    write(tmp_path, SAMPLES[2:3], split="test")
    for url in (tmp_path, tmp_path / "train"):
        assert open_split(str(url), "train")[1].samples == 2
    assert list_splits(str(tmp_path)) == ["train", "test"]
    assert list_splits(str(tmp_path / "test")) == ["test"]
    with pytest.raises(InputError, match="validation"):
        open_split(str(tmp_path), "validation")


def test_a_changed_byte_is_noticed(tmp_path: Path):
    shard = write(tmp_path, SAMPLES).shards[0]
    path = tmp_path / "train" / shard.name
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"shard-00000\.tar: corrupt shard"):
        list(iter_samples(str(tmp_path), "train"))
    path.unlink()
    with pytest.raises(InputError, match=r"shard-00000\.tar: missing"):
        list(iter_samples(str(tmp_path), "train"))


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def claims(data: bytes, width: int, height: int) -> bytes:
    """The PNG with another size in its header (PNG 11.2.2)."""
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (png(np.zeros((8, 8), np.uint16)), "16 bits"),
        (claims(png(np.zeros((8, 8), np.uint8)), 9000, 9000), "9000x9000 pixels"),
        (claims(png(np.zeros((8, 8), np.uint8)), 2**31 - 1, 2**31 - 1), "PNG of|pixels"),
        (png(RNG.integers(0, 255, (64, 64)).astype(np.uint8))[:900], "cannot be read"),
        (b"GIF89a" + bytes(50), "cannot be read"),
    ],
)
def test_an_image_of_a_shard_is_a_png_of_8_bits(tmp_path: Path, data: bytes, words: str):
    fields = {"png": data, "txt": b"Clear.", "json": b'{"patient": "p", "labels": {}}'}
    with pytest.raises(InputError, match=words) as caught:
        decode_sample("a", fields, "shard.tar")
    assert "shard.tar: sample a cannot be read" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{not json", "not JSON"),
        (json.dumps({"format": "other/9", "shards": []}), "other/9"),
        ('{"shards": [1]}', "not an index"),
    ],
)
def test_a_foreign_index_is_refused(tmp_path: Path, text: str, named: str):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "index.json").write_text(text)
    with pytest.raises(InputError, match=named):
        open_split(str(tmp_path), "train")
