"""`encode` over Ray workers and S3: what diffusers itself computes, in order, shard by shard, resumed and
refused.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_components

from medsd_ray.data.dataset import ShardedDataset
from medsd_ray.data.latents import read_notes, sample_size
from medsd_ray.data.shards import Sample, ShardWriter, iter_samples, read_index
from medsd_ray.errors import InputError
from medsd_ray.generation.encode import encode
from medsd_ray.models.load import load_components
from medsd_ray.models.resolve import model_fingerprint
from medsd_ray.models.save import save_pipeline
from medsd_ray.models.tokens import token_ids
from medsd_ray.storage import open_storage

COUNTS = {"train": 23, "test": 5}
LONG = "the heart is enlarged and the lungs are clear " * 10


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_pipeline(tiny_components(), folder)
    return str(folder)


def write_shards(root: Path, kind: str = "image", size: int = 16) -> str:
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        writer = ShardWriter(open_storage(str(root / split)), 20_000, kind, split, size=size)
        for number in range(count):
            image = rng.integers(0, 256, (size, size) if number % 2 else (size, size, 3), dtype=np.uint8)
            caption = LONG if number == 3 else f"Chest X-ray number {number}."
            sample = Sample(f"{split}-{number:03d}", None if kind == "text" else image, caption, "patient")
            if number % 3 == 0:
                sample.labels = {"finding": number}
                sample.masks = {"lungs": np.full((size, size), number, np.uint8)}
            sample.domain = "here" if number >= 12 else None
            writer.write(sample)
        writer.finish()
    return str(root)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = write_shards(tmp_path_factory.mktemp("shards"))
    assert len(read_index(url, "train").shards) > 3
    return url


def rows(url: str, split: str) -> dict[int, dict[str, torch.Tensor]]:
    """The stored samples by their place in the training order of seed 0."""
    dataset = ShardedDataset(url, split, seed=0)
    return {position: dataset.sample_at(position) for position in range(dataset.samples)}


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def test_latents_are_what_the_models_own_parts_compute(shards: str, model: str, tmp_path: Path):
    encode(shards, str(tmp_path), model=model, batch_size=4)
    index, parts = read_index(str(tmp_path), "train"), load_components(model)
    samples = list(iter_samples(shards, "train"))
    dataset = ShardedDataset(str(tmp_path), "train", seed=0)
    tokens = ShardedDataset(str(tmp_path), "train", seed=0, tokenize=partial(token_ids, parts.tokenizer))
    starts = np.cumsum([0, *(shard.samples for shard in index.shards)])
    with torch.no_grad():
        for position in range(dataset.samples):
            shard, row = dataset.order.sample_at(position)
            sample, found = samples[starts[shard] + row], dataset.sample_at(position)
            assert tokens.sample_at(position).keys() == {"mean", "logvar", "input_ids"}
            assert sample.image is not None
            image = sample.image if sample.image.ndim == 3 else np.stack([sample.image] * 3, 2)
            pixels = torch.tensor(image).permute(2, 0, 1)[None] / 127.5 - 1
            posterior = parts.vae.encode(pixels).latent_dist
            ids = parts.tokenizer(
                sample.caption, padding="max_length", truncation=True, max_length=32, return_tensors="pt"
            ).input_ids
            assert found["mean"].shape == (4, 8, 8)
            torch.testing.assert_close(found["mean"], posterior.mean[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(found["logvar"], posterior.logvar[0], atol=1e-5, rtol=1e-4)
            assert torch.equal(tokens.sample_at(position)["input_ids"], ids[0])
            torch.testing.assert_close(
                found["text_embeddings"], parts.text_encoder(ids)[0][0], atol=1e-5, rtol=1e-4
            )
        empty = parts.tokenizer("", padding="max_length", max_length=32, return_tensors="pt").input_ids
        expected = parts.text_encoder(empty)[0][0]
        torch.testing.assert_close(
            torch.tensor(index.meta["empty_embedding"]), expected, atol=1e-5, rtol=1e-4
        )
    assert index.meta["scaling_factor"] == parts.vae.config["scaling_factor"]
    assert index.meta["fingerprint"] == model_fingerprint(model)
    assert index.meta["sample_size"] == [8, 8]
    earlier = replace(index, meta={})  # an index that does not say it
    assert (
        sample_size(open_storage(f"{tmp_path}/train"), earlier) == sample_size(dataset.store, index) == (8, 8)
    )
    root = open_storage(str(tmp_path)).read_json("index.json")
    assert {split: entry["samples"] for split, entry in root["splits"].items()} == COUNTS


def test_labels_domains_and_masks_go_along(shards: str, model: str, tmp_path: Path):
    encode(shards, str(tmp_path), model=model, batch_size=4)
    index, samples = read_index(str(tmp_path), "train"), list(iter_samples(shards, "train"))
    notes = [note for shard in index.shards for note in read_notes(tmp_path / "train" / shard.name)]
    domains = [shard.domain for shard in index.shards]
    assert domains == [shard.domain for shard in read_index(shards, "train").shards] and "here" in domains
    assert len(notes) == len(samples) and sum(bool(note.masks) for note in notes) == 8
    for sample, note in zip(samples, notes, strict=True):
        assert (sample.labels, sample.domain) == (note.labels, note.domain)
        assert sample.masks.keys() == note.masks.keys()
        for name, mask in sample.masks.items():
            np.testing.assert_array_equal(note.masks[name], mask)


def test_two_workers_on_s3_store_the_same_and_change_nothing_the_second_time(
    ray_cluster, s3, shards, model, tmp_path, capsys
):
    source, dest = open_storage(f"{s3}/shards"), open_storage(f"{s3}/latents")
    for path in Path(shards).rglob("*.*"):
        source.upload(path, path.relative_to(shards).as_posix())
    options = {"model": model, "text_embeddings": False}
    encode(shards, str(tmp_path / "here"), **options, batch_size=32)
    encode(source.url, dest.url, **options, batch_size=3, num_workers=2)
    assert "28/28 images encoded" in capsys.readouterr().out
    dest.download_tree(tmp_path / "there")
    for split in COUNTS:
        here, there = rows(str(tmp_path / "here"), split), rows(str(tmp_path / "there"), split)
        assert len(there) == COUNTS[split]
        for position, row in here.items():
            assert row.keys() == there[position].keys() == {"mean", "logvar"}
            for name, value in row.items():
                torch.testing.assert_close(there[position][name], value, atol=1e-5, rtol=1e-4)
    before = dest.etags()
    encode(source.url, dest.url, **options, num_workers=2)
    assert dest.etags() == before
    assert not [key for key in before if ".progress" in key]


def test_a_corrupt_shard_is_named_and_the_others_are_kept(
    ray_cluster, shards: str, model: str, tmp_path: Path
):
    copy, dest = tmp_path / "shards", tmp_path / "latents"
    shutil.copytree(shards, copy)
    damaged = copy / "train" / "shard-00001.tar"
    damaged.write_bytes(damaged.read_bytes()[:-600])
    with pytest.raises(InputError, match=r"train/shard-00001\.tar: corrupt shard") as raised:
        encode(str(copy), str(dest), model=model, num_workers=2)
    assert "\n" not in str(raised.value)
    kept = stamps(dest / "train")
    assert len(kept) == len(list((copy / "train").glob("*.tar"))) - 1
    assert not (dest / "train/index.json").exists() and not (dest / "index.json").exists()

    shutil.copy(Path(shards) / "train" / damaged.name, damaged)
    encode(str(copy), str(dest), model=model, batch_size=5)
    assert kept.items() < stamps(dest / "train").items()
    assert len(rows(str(dest), "train")) == COUNTS["train"]


def test_other_latents_are_not_mixed(shards: str, model: str, tmp_path: Path):
    dest = str(tmp_path / "latents")
    encode(f"{shards}/test", dest, model=model)  # one split alone
    assert list(open_storage(dest).read_json("index.json")["splits"]) == ["test"]
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    encode(shards, dest, model=str(moved))  # the same model elsewhere goes on
    assert (
        sum(entry["samples"] for entry in open_storage(dest).read_json("index.json")["splits"].values()) == 28
    )

    save_pipeline(tiny_components(seed=1), tmp_path / "other")
    with pytest.raises(InputError, match="holds other latents"):
        encode(shards, dest, model=str(tmp_path / "other"))
    with pytest.raises(InputError, match="holds other latents"):
        encode(shards, dest, model=model, text_embeddings=False)


def test_what_cannot_be_encoded_is_refused(shards: str, model: str, tmp_path: Path):
    with pytest.raises(InputError, match="text shards have no images"):
        encode(write_shards(tmp_path / "text", kind="text"), str(tmp_path / "out"), model=model)
    with pytest.raises(InputError, match="15 px images do not divide by the VAE's 2"):
        encode(write_shards(tmp_path / "odd", size=15), str(tmp_path / "out"), model=model)
    with pytest.raises(InputError, match="batch_size is 0"):
        encode(shards, str(tmp_path / "out"), model=model, batch_size=0)
    assert not (tmp_path / "out").exists()
    encode(shards, str(tmp_path / "latents"), model=model)
    with pytest.raises(InputError, match="latent shards have no images"):
        encode(str(tmp_path / "latents"), str(tmp_path / "out"), model=model)
