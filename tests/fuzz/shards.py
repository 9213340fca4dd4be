"""Shards: tars, indexes, latents."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz.campaign import Files, Reader
from fuzz.children import holds
from fuzz.mutations import damaged, odd_document, odd_json
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from medsd_ray.data.dataset import ShardedDataset
from medsd_ray.data.latents import LatentNote, read_notes, sample_size, to_bytes
from medsd_ray.data.shards import (
    INDEX,
    Index,
    Sample,
    Shard,
    ShardWriter,
    iter_samples,
    open_split,
    write_index,
)
from medsd_ray.data.tar import members, read_tar
from medsd_ray.storage import FolderStorage, entry_of_bytes

torch.set_num_threads(1)  # threads do not come along into a forked child
SIZE = 8


def _made(make: Callable[[FolderStorage], Any]) -> Files:
    with tempfile.TemporaryDirectory() as folder:
        make(FolderStorage(Path(folder, "train")))
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _images(store: FolderStorage) -> None:
    writer = ShardWriter(store, 2**20, "image", "train", size=SIZE)
    rng = np.random.default_rng(0)
    for number in range(4):
        shape = (SIZE, SIZE, 3) if number == 3 else (SIZE, SIZE)
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        masks = {"lungs": image} if number == 1 else {}
        writer.write(
            Sample(
                f"s{number}",
                image,
                f"text {number}",
                f"p{number}",
                {"finding": "x"},
                masks,
                "here" if number else None,
            )
        )
    writer.finish()


def _latents(store: FolderStorage, embeddings: bool = False) -> None:
    rows = {"mean": torch.randn(3, 4, 2, 2), "logvar": torch.randn(3, 4, 2, 2)}
    rows |= {"text_embeddings": torch.randn(3, 5, 6)} if embeddings else {}
    mask = np.eye(SIZE, dtype=np.uint8) * 255
    notes = [LatentNote({"finding": "x"}, "here", {"lungs": mask}), LatentNote({}, None, {})]
    data = to_bytes(rows, ["a", "b", "c"], ["x", "y", "z"], [*notes, notes[0]])
    name = "shard-00000.safetensors"
    store.write(name, data)
    meta = {"model": "m", "scaling_factor": 0.5, "sample_size": [2, 2], "text_embeddings": embeddings}
    write_index(store, Index("latent", "train", (Shard(name, 3, **entry_of_bytes(data)),), meta))


IMAGES, LATENTS = _made(_images), _made(_latents)
TAR, TENSORS = "train/shard-00000.tar", "train/shard-00000.safetensors"
SOME_LATENTS = [LATENTS[TENSORS], _made(lambda store: _latents(store, embeddings=True))[TENSORS]]


def _other_tars() -> list[bytes]:
    """Of the formats that other programs write: long names, links, folders."""
    found = []
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
            for name in (f"{'n' * 120}.txt", "ü.txt", "a.txt", "a.json"):
                info = tarfile.TarInfo(name)
                info.size = 5
                tar.addfile(info, io.BytesIO(b"12345"))
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        found.append(buffer.getvalue())
    return found


TARS = [IMAGES[TAR], *_other_tars()]


def read_members(folder: Path) -> None:
    """Members lie within the tar, and both ways to read it find the same ones."""
    path = folder / "a.tar"
    data = path.read_bytes()
    samples = list(read_tar(data, "a.tar"))
    found = members(path)
    holds(
        all(one.offset >= 0 and one.offset + one.size <= len(data) for one in found), "members lie in the tar"
    )
    last: dict[tuple[int, str], bytes] = {}
    number, key = -1, None
    for one in found:
        number, key = (number, key) if one.key == key and number >= 0 else (number + 1, one.key)
        last[number, one.extension] = data[one.offset : one.offset + one.size]
    read = {
        (n, extension): part for n, (_, fields) in enumerate(samples) for extension, part in fields.items()
    }
    holds(read == last, "samples are the members that follow one another")


def _read_split(folder: Path) -> int:
    """Reads all samples of the split; the number of them."""
    store, index = open_split(str(folder), "train")
    if index.kind == "latent":
        sample_size(store, index)
        for shard in index.shards:
            for note in read_notes(folder / "train" / shard.name):
                holds(all(mask.ndim == 2 for mask in note.masks.values()), "masks are flat")
    else:
        for sample in iter_samples(str(folder), "train"):
            image = sample.image
            holds(image is None or (image.dtype == np.uint8 and image.ndim in (2, 3)), "8 bits")
            holds(all(mask.ndim == 2 for mask in sample.masks.values()), "masks are flat")
    tokenize = (
        (lambda texts: torch.zeros(len(texts), 5, dtype=torch.int64)) if index.kind == "latent" else None
    )
    dataset = ShardedDataset(str(folder), "train", 0, tokenize=tokenize)
    count = min(dataset.samples, 12)
    for position in range(count):
        row = dataset.sample_at(position)
        holds(row and all(isinstance(part, torch.Tensor) for part in row.values()), "tensors")
        pixels = row.get("pixel_values")
        holds(pixels is None or (pixels.ndim == 3 and pixels.shape[0] == 3), "pixels of three channels")
    return count


def read_vouched(folder: Path) -> None:
    """A damaged shard whose checksum is right, as one that another program made."""
    _read_split(folder)


def read_unvouched(folder: Path) -> None:
    """A damaged shard is refused where its index knows another one."""
    _read_split(folder)
    whole = IMAGES.get(TAR) if (folder / TAR).exists() else LATENTS[TENSORS]
    name = TAR if (folder / TAR).exists() else TENSORS
    holds((folder / name).read_bytes() == whole, "what its index does not vouch for is not taken")


def _vouched(files: Files, name: str, data: bytes) -> Files:
    index = json.loads(files[f"train/{INDEX}"])
    index["shards"][0] |= entry_of_bytes(data)
    return files | {name: data, f"train/{INDEX}": json.dumps(index).encode()}


@st.composite
def _noted(draw: DrawFn) -> bytes:
    """A tar whose samples have odd notes, texts or images."""
    buffer = io.BytesIO()
    note = {"patient": "p", "labels": {"finding": "x", "age": 3}}
    png = next(fields["png"] for _, fields in read_tar(IMAGES[TAR], ""))
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for key in ("a", "b"):
            fields = {
                "png": draw(st.just(png) | damaged([png])),
                "txt": draw(st.just(b"text") | st.binary(max_size=8)),
            }
            for extension, data in {**fields, "json": draw(odd_json(note))}.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _indexes(files: Files) -> st.SearchStrategy[Files]:
    index = json.loads(files[f"train/{INDEX}"])
    odd = odd_document(index).map(lambda one: json.dumps(one).encode()) | odd_json(index)
    return odd.map(lambda data: files | {f"train/{INDEX}": data})


READERS = [
    Reader("tar", damaged(TARS).map(lambda data: {"a.tar": data}), read_members, 60),
    Reader("image shards", (damaged([IMAGES[TAR]]) | _noted()).map(lambda one: _vouched(IMAGES, TAR, one)),
           read_vouched, 50),
    Reader("latents", damaged(SOME_LATENTS).map(lambda one: _vouched(LATENTS, TENSORS, one)),
           read_vouched, 50),
    Reader("shards not vouched for", damaged([IMAGES[TAR]]).map(lambda one: IMAGES | {TAR: one})
           | damaged([LATENTS[TENSORS]]).map(lambda one: LATENTS | {TENSORS: one}), read_unvouched, 30),
    Reader("index.json", _indexes(IMAGES) | _indexes(LATENTS), read_vouched, 50),
]  # fmt: skip
