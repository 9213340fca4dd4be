"""Batches of images and latents: the same samples in the same order for any number of workers and from any
step.
"""

from __future__ import annotations

import hashlib
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from medsd_ray.data.dataset import ShardedDataset, WithPrior
from medsd_ray.data.images import ImageReader
from medsd_ray.data.latents import LatentReader, to_bytes
from medsd_ray.data.loader import batches
from medsd_ray.data.shards import Index, Sample, Shard, ShardWriter, iter_samples, write_index
from medsd_ray.data.tar import read_tar
from medsd_ray.errors import InputError
from medsd_ray.storage import open_storage

COUNT = 30


def write_images(folder: Path, channels: int = 1, kind: str = "image") -> str:
    """COUNT images, 8x8, in several shards; the first pixel tells the number. Every third has a mask."""
    rng = np.random.default_rng(0)
    writer = ShardWriter(open_storage(str(folder)), 20_000, kind, "train", size=8)
    for number in range(COUNT):
        pixels = rng.integers(0, 256, (8, 8) if channels == 1 else (8, 8, 3), dtype=np.uint8)
        pixels[0, 0] = number
        masks = {} if number % 3 else {"m": np.zeros((8, 8), np.uint8)}
        image = None if kind == "text" else pixels
        writer.write(Sample(f"{number:05d}", image, f"caption {number}", "patient", {}, masks))
    assert len(writer.finish().shards) > 2
    return str(folder)


def write_latents(folder: Path) -> str:
    store, shards = open_storage(str(folder)), []
    for number, size in enumerate((7, 1, 12, 10)):
        first = sum(shard.samples for shard in shards)
        numbers = torch.arange(first, first + size)
        tensors = {
            "mean": numbers.float()[:, None, None, None].expand(-1, 4, 2, 2),
            "logvar": -numbers.float()[:, None, None, None].expand(-1, 4, 2, 2),
        }
        data = to_bytes(tensors, [f"{n:05d}" for n in numbers.tolist()], [str(n) for n in numbers.tolist()])
        store.write(name := f"shard-{number:05d}.safetensors", data)
        shards.append(Shard(name, size, len(data), hashlib.sha256(data).hexdigest()))
    write_index(store, Index("latent", "train", tuple(shards), {"scaling_factor": 1.0}))
    return str(folder)


def tokenize(captions: list[str]) -> Tensor:
    return torch.tensor([[int(caption)] * 5 for caption in captions])


@pytest.fixture
def latents(tmp_path: Path) -> str:
    return write_latents(tmp_path)


def read(
    url: str, steps: range, world_size: int = 1, micro_batch_size: int = 4, batch: int = 12
) -> list[list[dict[str, Tensor]]]:
    """The micro batches of each step, those of the workers one after the other."""
    streams = [
        batches(
            ShardedDataset(url, "train", seed=1, tokenize=tokenize),
            first_step=steps.start,
            last_step=steps.stop,
            global_batch_size=batch,
            micro_batch_size=micro_batch_size,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    return [[micro for worker in step for micro in worker] for step in zip(*streams, strict=True)]


def joined(step: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([micro[name] for micro in step]) for name in step[0]}


@pytest.mark.parametrize("channels", [1, 3])
def test_images_come_whole_with_three_channels(tmp_path: Path, channels: int):
    url = write_images(tmp_path, channels)
    stored = {int(sample.key): sample.image for sample in iter_samples(url, "train")}
    seen = set()
    for step in read(url, range(COUNT // 6), batch=6):
        batch = joined(step)
        assert batch["pixel_values"].shape == (6, 3, 8, 8) and batch["pixel_values"].dtype == torch.float32
        for pixels in batch["pixel_values"]:
            back = ((pixels + 1) * 127.5).round().byte()
            image = stored[number := int(back[0, 0, 0])]
            assert image is not None
            expected = image if channels == 3 else np.repeat(image[..., None], 3, 2)
            assert np.array_equal(back.permute(1, 2, 0).numpy(), expected)
            seen.add(number)
    assert seen == set(range(COUNT))


@pytest.mark.parametrize(
    "prefix", ["", "é-", "long-" * 40], ids=["plain headers", "PAX for letters", "PAX for length"]
)
def test_an_image_is_found_in_its_shard_whatever_its_headers(tmp_path: Path, prefix: str):
    writer = ShardWriter(open_storage(str(tmp_path)), 1 << 20, "image", "train", size=8)
    for number in range(5):
        pixels = np.full((8, 8), 40 * number, np.uint8)
        writer.write(
            Sample(f"{prefix}{number}", pixels, "caption", "patient", {}, {"m": pixels} if number % 2 else {})
        )
    (shard,) = writer.finish().shards
    reader = ImageReader()
    for number in range(5):
        pixels = reader.row(tmp_path / shard.name, number)["pixel_values"]
        torch.testing.assert_close(pixels, torch.full((3, 8, 8), 40 * number / 127.5 - 1))
    with pytest.raises(InputError, match=r"5 images, though its index says that there are more"):
        reader.row(tmp_path / shard.name, 5)


def test_a_file_that_is_no_tar_is_named(tmp_path: Path):
    backwards = tarfile.TarInfo("0.png").tobuf().replace(b"00000000000\x00", b"-0000002000\x00", 1)
    for data in (b"", b"no tar" * 200, backwards * 4):
        (tmp_path / "shard.tar").write_bytes(data)
        with pytest.raises(InputError, match=r"shard\.tar: not a tar file"):
            ImageReader().row(tmp_path / "shard.tar", 0)
        with pytest.raises(InputError, match=r"shard\.tar: not a tar file"):
            list(read_tar(data, "shard.tar"))


def test_latents_keep_their_rows_together(latents: str):
    batch = joined(read(latents, range(5), batch=6)[0])
    assert batch["mean"].shape == (6, 4, 2, 2) and batch["input_ids"].shape == (6, 5)
    assert (batch["mean"].dtype, batch["input_ids"].dtype, batch["positions"].dtype) == (
        torch.float32, torch.int64, torch.int64,
    )  # fmt: skip
    assert torch.equal(batch["mean"], -batch["logvar"])
    assert torch.equal(batch["mean"][:, 0, 0, 0].long(), batch["input_ids"][:, 0])
    assert batch["positions"].tolist() == list(range(6))


def test_tokens_are_made_where_they_are_wanted_and_latents_without_captions_are_refused(
    latents: str, tmp_path: Path
):
    assert ShardedDataset(latents, "train", seed=1).sample_at(0).keys() == {"mean", "logvar"}
    path = tmp_path / "other.safetensors"
    save_file({"mean": torch.zeros(1, 4, 2, 2)}, path)
    with pytest.raises(InputError, match="run encode again"):
        LatentReader(tokenize).row(path, 0)


def test_a_prior_is_read_at_the_same_positions_in_its_own_order(latents: str, tmp_path: Path):
    other = write_images(tmp_path / "prior")
    parts = [ShardedDataset(url, "train", seed=1) for url in (latents, other)]
    batch, positions = WithPrior(*parts).batch(range(40, 46)), range(40, 46)
    assert torch.equal(batch["mean"], parts[0].batch(positions)["mean"])
    assert torch.equal(batch["prior_pixel_values"], parts[1].batch(positions)["pixel_values"])


def test_an_epoch_has_each_sample_once(latents: str):
    ids = [joined(step)["input_ids"][:, 0] for step in read(latents, range(10), batch=6)]
    epochs = torch.cat(ids).reshape(2, COUNT)
    assert [sorted(epoch.tolist()) for epoch in epochs] == [list(range(COUNT))] * 2
    assert epochs[0].tolist() != epochs[1].tolist()


@pytest.mark.parametrize(("world_size", "micro_batch_size"), [(2, 6), (2, 4), (3, 4), (1, 5), (12, 1)])
def test_any_number_of_workers_and_micro_batch_sees_the_same(
    latents: str, world_size: int, micro_batch_size: int
):
    expected = read(latents, range(6))
    for one, other in zip(expected, read(latents, range(6), world_size, micro_batch_size), strict=True):
        assert max(len(micro["positions"]) for micro in other) <= micro_batch_size
        assert all(torch.equal(value, joined(other)[name]) for name, value in joined(one).items())


def test_it_goes_on_where_it_stopped_with_another_number_of_workers(latents: str):
    """2 workers to 1: steps 4 to 8 are what they would have been."""
    whole = read(latents, range(8))[4:]
    resumed = read(latents, range(4, 8), world_size=2)
    assert [joined(step)["input_ids"].tolist() for step in resumed] == [
        joined(step)["input_ids"].tolist() for step in whole
    ]


def test_shards_come_from_s3_as_from_a_folder(s3: str, tmp_path: Path):
    url = write_latents(tmp_path / "latents")
    for path in Path(url).iterdir():
        open_storage(s3).upload(path, path.name)
    dataset = ShardedDataset(s3, "train", seed=1, cache_dir=str(tmp_path / "cache"))
    local = ShardedDataset(url, "train", seed=1)
    for position in range(COUNT):
        assert torch.equal(dataset.sample_at(position)["mean"], local.sample_at(position)["mean"])
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 4


def test_a_corrupt_shard_ends_the_reading_with_its_name(latents: str):
    path = Path(latents) / "shard-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"shard-00002\.safetensors: corrupt shard"):
        read(latents, range(5), batch=6)


def test_text_alone_and_a_split_without_samples_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="text shards hold no images"):
        ShardedDataset(write_images(tmp_path / "text", kind="text"), "train", seed=0)
    ShardWriter(open_storage(str(tmp_path / "empty")), 1000, "image", "train", size=8).finish()
    with pytest.raises(InputError, match="no sample in this split"):
        ShardedDataset(str(tmp_path / "empty"), "train", seed=0)


def test_a_reader_that_is_left_early_stops_its_thread(latents: str):
    stream = batches(
        ShardedDataset(latents, "train", seed=1),
        first_step=0, last_step=10**6, global_batch_size=4, micro_batch_size=4, rank=0, world_size=1,
    )  # fmt: skip
    next(stream)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "read-ahead"]
    stream.close()
    thread.join(timeout=5)
    assert not thread.is_alive()
