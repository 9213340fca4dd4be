"""JSON files and latents of wrong types, whoever wrote them, are refused in one line that names the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import shifted, tiny_components, write_checkpoint

from medsd_ray.data.index_schema import SplitIndex
from medsd_ray.data.latents import LatentReader
from medsd_ray.data.shards import INDEX, Sample, ShardWriter, decode_sample, list_splits, open_split
from medsd_ray.errors import InputError
from medsd_ray.reader_study.report import read_key
from medsd_ray.reader_study.study import FORMAT, KeyFile, StudyFile, open_study
from medsd_ray.runs.checkpoint_reader import load_weights
from medsd_ray.runs.checkpoint_schema import Description
from medsd_ray.runs.checkpoints import describe_checkpoint
from medsd_ray.schemas import Schema
from medsd_ray.storage import FolderStorage

WRONG: tuple[Any, ...] = (
    None,
    True,
    -1,
    1.5,
    "x",
    [],
    {},
    [1],
    {"a": 1},
    10**30,
    float("nan"),
    "/etc/passwd",
)


def variants(value: Any) -> Iterator[tuple[str, Any]]:
    """(path, the value with one part of it replaced by one of WRONG)."""
    if isinstance(value, dict | list):
        for at in value if isinstance(value, dict) else range(len(value)):
            for path, inner in variants(value[at]):
                copy = value.copy()
                copy[at] = inner
                yield f"{at}.{path}", copy
    for wrong in WRONG:
        yield repr(wrong), wrong


def refused_or_believed(schema: type[Schema], read: Any, value: dict) -> tuple[int, int]:
    """Reads every variant: each is refused in one line, or is one that the schema knows as right."""
    refused = believed = 0
    for path, variant in variants(value):
        if not isinstance(variant, dict):
            continue
        try:
            read(variant)
            schema.model_validate(variant)
            believed += 1
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 600, path
            refused += 1
    return refused, believed


def test_an_index(tmp_path: Path):
    store = FolderStorage(tmp_path / "train")
    writer = ShardWriter(store, 100_000, "image", "train", size=8)
    writer.write(Sample("a", np.zeros((8, 8), np.uint8), "text", "p", {"finding": "x"}))
    writer.finish()
    value = store.read_json(INDEX) | {"labels": {"finding": {"x": 1}}}
    value |= {"scaling_factor": 0.5, "empty_embedding": [[0.5]], "model": "m", "sample_size": [8, 8]}

    def read(variant: Any) -> None:
        store.write(INDEX, json.dumps(variant).encode())
        _, index = open_split(str(tmp_path), "train")
        assert index.samples >= 0 and index.bytes >= 0 and list_splits(str(tmp_path)) == ["train"]

    read(value)
    refused, believed = refused_or_believed(SplitIndex, read, value)
    assert refused > 150 and believed < 60


@pytest.mark.parametrize("name", ["../secret.tar", "/etc/passwd", "a/b.tar", "", ".hidden", "a\0", "a\n"])
def test_a_shard_is_a_file_of_the_split(tmp_path: Path, name: str):
    entry = {"name": name, "samples": 1, "bytes": 1, "sha256": "0" * 64}
    value = {"format": "medsd-shards/1", "kind": "image", "split": "train", "shards": [entry]}
    FolderStorage(tmp_path).write_json("train/index.json", value)
    with pytest.raises(InputError, match=r"not an index of shards \(shards\.0\.name"):
        open_split(str(tmp_path), "train")


def test_a_checkpoint_s_description(tmp_path: Path):
    components, store = tiny_components(), FolderStorage(tmp_path / "step")
    weights = {"unet.conv_in.bias": shifted(components, "unet", 0.0)["unet.conv_in.bias"]}
    more = {"fingerprints": {"model": "f"}, "spec": {}, "sample_size": [8, 8], "scaling_factor": 0.5}
    write_checkpoint(store, "base", {"unet": "full"}, weights, weights, **more)
    value = store.read_json("checkpoint.json")

    def read(variant: Any) -> None:
        data = json.dumps(variant).encode()
        store.write("checkpoint.json", data)
        files = {n: {"bytes": 1, "sha256": e["sha256"]} for n, e in (store.complete() or {}).items()}
        store.mark_complete({n: e for n, e in files.items() if n != "checkpoint.json"} | _entry(data))
        describe_checkpoint(store)
        load_weights(store, raw=True)

    read(value)
    refused, believed = refused_or_believed(Description, read, value)
    assert refused > 200 and believed < 80


def test_a_checkpoint_that_names_no_weights(tmp_path: Path):
    store = FolderStorage(tmp_path / "step")
    write_checkpoint(store, "base", {"unet": "full"}, {}, {})
    with pytest.raises(InputError, match=r"checkpoint\.json names no weights"):
        load_weights(store, raw=True)


def _entry(data: bytes) -> dict[str, Any]:
    from medsd_ray.storage import entry_of_bytes

    return {"checkpoint.json": entry_of_bytes(data)}


@pytest.mark.parametrize(
    "text",
    [
        "[]", "1", "null", "", "{", "[" * 9999, '{"patient": 1, "labels": {}}', '{"patient": "p"}',
        '{"patient": "p", "labels": []}', '{"patient": "p", "labels": {"a": []}}',
        '{"patient": "p", "labels": {"a": null}}', '{"patient": "p", "labels": {"a": {"b": 1}}}',
        '{"patient": "p", "labels": {"a": 1e999}}',
    ],
)  # fmt: skip
def test_a_sample_s_note(text: str):
    with pytest.raises(InputError, match=r"shard\.tar: sample a cannot be read") as caught:
        decode_sample("a", {"json": text.encode(), "txt": b"x"}, "shard.tar")
    assert "\n" not in str(caught.value)


ROWS = {"mean": torch.zeros(2, 4, 2, 2), "logvar": torch.zeros(2, 4, 2, 2)}
LATENTS: dict[str, tuple[dict[str, torch.Tensor], Any]] = {
    "whole numbers": (ROWS | {"mean": ROWS["mean"].int()}, ["a", "b"]),
    "flat": (ROWS | {"mean": torch.zeros(2, 16)}, ["a", "b"]),
    "no mean": ({"logvar": ROWS["logvar"]}, ["a", "b"]),
    "other shapes": (ROWS | {"logvar": torch.zeros(2, 4, 1, 2)}, ["a", "b"]),
    "other rows": (ROWS | {"logvar": torch.zeros(3, 4, 2, 2)}, ["a", "b"]),
    "more": (ROWS | {"extra": torch.zeros(2)}, ["a", "b"]),
    "few captions": (ROWS, ["a"]),
    "no texts": (ROWS, [1, 2]),
    "no list": (ROWS, {"a": "b"}),
}


@pytest.mark.parametrize("name", LATENTS)
def test_latents(tmp_path: Path, name: str):
    tensors, captions = LATENTS[name]
    path = tmp_path / "shard.safetensors"
    save_file(tensors, path, metadata={"captions": json.dumps(captions), "keys": "[]"})
    reader = LatentReader(lambda captions: torch.zeros(len(captions), 3, dtype=torch.int64))
    with pytest.raises(InputError, match="not a latent shard") as caught:
        reader.row(path, 0)
    assert "\n" not in str(caught.value)
    save_file(ROWS, path, metadata={"captions": '["a", "b"]', "keys": "[]"})
    assert reader.row(path, 1)["mean"].shape == (4, 2, 2)
    with pytest.raises(InputError, match="not a latent shard"):
        reader.row(path, 2)


def test_a_reader_study(tmp_path: Path):
    name = "0123456789abcdef"
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / f"{name}.png").write_bytes(b"png")
    study = {"format": FORMAT, "seed": 0, "width": 8, "height": 8, "images": [name]}
    entry = {"group": "real", "source": "a", "text": "b", "abnormal": None}
    key: dict[str, Any] = {
        "format": FORMAT,
        "real": "a",
        "generated": "b",
        "label": "c",
        "normal": "d",
        "reference": "e",
    }
    key["images"] = {name: entry}

    def read(variant: Any, file: str) -> None:
        for at, value in (("study.json", study), ("key.json", key)):
            (tmp_path / at).write_text(json.dumps(variant if at == file else value))
        read_key(open_study(tmp_path))

    for file, schema, value in (("study.json", StudyFile, study), ("key.json", KeyFile, key)):
        read(value, file)
        refused, believed = refused_or_believed(schema, lambda variant, file=file: read(variant, file), value)
        assert refused > 40 and believed < 30
