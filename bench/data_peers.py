"""The peers of data.py, each run by the Python of its own environment: it writes samples in its format, and
reads them from S3.

Nothing of medsd is imported here. A sample is an image (PNG) with a caption, or VAE moments (mean and
log-variance, float32) with one; the samples come from a folder of tar shards. Each peer is set up as its
documentation shows for S3 and PyTorch.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import serve

CHUNK = 2 << 20
"""Bytes of a shard or chunk: small ones, so that a data set that all can read in a minute has several of our
blocks.
"""
BATCH = 32


def samples(folder: Path) -> Iterator[dict[str, bytes]]:
    """{extension: bytes} of each sample of a folder of tar shards."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            key, fields = None, {}
            for member in tar:
                name, _, extension = member.name.partition(".")
                if key not in (None, name):
                    yield fields
                    fields = {}
                key, file = name, tar.extractfile(member)
                fields[extension] = file.read() if file else b""
            yield fields


def decode(fields: dict[str, Any]) -> dict[str, Any]:
    """Bytes to tensors: pixels (3, H, W) in [-1, 1], or the moments."""
    import numpy as np
    import torch
    from PIL import Image

    if "png" in fields:
        pixels = np.asarray(Image.open(io.BytesIO(fields["png"])).convert("RGB"))
        return {"pixel_values": torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1}
    return {name: torch.from_numpy(np.load(io.BytesIO(fields[f"{name}.npy"]))) for name in ("mean", "logvar")}


# --- WebDataset reads the tar shards as they are


def webdataset_write(source: Path, out: Path) -> None:
    shutil.copytree(source, out)


def webdataset_read(url: list[str], cache: str, workers: int) -> Any:
    import webdataset as wds
    from torch.utils.data import DataLoader

    os.makedirs(cache, exist_ok=True)
    data = (
        wds.WebDataset(  # pyright: ignore[reportAttributeAccessIssue]: the module makes its names as it loads
            url, shardshuffle=len(url), seed=0, cache_dir=cache, nodesplitter=None
        )
        .shuffle(1000)
        .map(decode)
    )
    return DataLoader(data.batched(BATCH, collation_fn=_stack), batch_size=None, num_workers=workers)


def _stack(rows: list[dict[str, Any]]) -> dict[str, Any]:
    import torch

    return {
        name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "__key__"
    }  # which its map adds


# --- LitData


def litdata_write(source: Path, out: Path) -> None:
    from litdata.streaming.writer import BinaryWriter  # pyright: ignore[reportMissingImports]

    writer, number = BinaryWriter(str(out), chunk_bytes=CHUNK), 0
    for number, fields in enumerate(samples(source)):
        writer.add_item(number, fields)
    writer.done()
    writer.merge()


def litdata_read(url: list[str], cache: str, workers: int) -> Any:
    from litdata import StreamingDataLoader, StreamingDataset  # pyright: ignore[reportMissingImports]
    from litdata.streaming import downloader  # pyright: ignore[reportMissingImports]

    class Decoded(StreamingDataset):
        def __getitem__(self, index: Any) -> dict[str, Any]:
            return decode(super().__getitem__(index))

    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = "true"  # no setting of its own says so
    options = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
    data = Decoded(url[0], cache_dir=cache, shuffle=True, seed=0, storage_options=options)
    return StreamingDataLoader(data, batch_size=BATCH, num_workers=workers)


# --- Mosaic Streaming


def mosaic_write(source: Path, out: Path) -> None:
    from streaming import MDSWriter  # pyright: ignore[reportMissingImports]

    columns: dict[str, str] = {}
    writer = None
    for fields in samples(source):
        kept = {name.replace(".", "_"): value for name, value in fields.items()}
        if writer is None:
            columns = dict.fromkeys(kept, "bytes")
            writer = MDSWriter(out=str(out), columns=columns, size_limit=CHUNK, hashes=["sha1"])
        writer.write(kept)
    assert writer
    writer.finish()


def mosaic_read(url: list[str], cache: str, workers: int) -> Any:
    from streaming import StreamingDataLoader, StreamingDataset  # pyright: ignore[reportMissingImports]
    from streaming.base.util import clean_stale_shared_memory  # pyright: ignore[reportMissingImports]

    clean_stale_shared_memory()  # of this process's last data set, which read into the same folder
    os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]

    class Decoded(StreamingDataset):
        def __getitem__(self, index: Any) -> dict[str, Any]:
            return decode(
                {name.replace("_npy", ".npy"): value for name, value in super().__getitem__(index).items()}
            )

    data = Decoded(remote=url[0], local=cache, shuffle=True, shuffle_seed=0, batch_size=BATCH)
    return StreamingDataLoader(data, batch_size=BATCH, num_workers=workers)


# --- Ray Data reads the tar shards too


def ray_write(source: Path, out: Path) -> None:
    shutil.copytree(source, out)


def ray_read(url: list[str], cache: str, workers: int) -> Any:
    import pyarrow.fs
    import ray

    ray.init(num_cpus=max(2, workers), include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    ray.data.DataContext.get_current().enable_progress_bars = False
    host = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    store = pyarrow.fs.S3FileSystem(endpoint_override=host, scheme="http", region=os.environ["AWS_REGION"])
    paths = [one.removeprefix("s3://") for one in url]
    data = ray.data.read_webdataset(
        paths, filesystem=store, shuffle="files", decoder=None, concurrency=workers
    )
    return data.map(_decoded).iter_torch_batches(batch_size=BATCH, local_shuffle_buffer_size=1000)


def _decoded(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in decode(fields).items()}


# --- a peer's own process


def arm(options: dict[str, Any]) -> None:
    kind: str = options["kind"]
    for name in ("torch.utils.data", {"mosaic": "streaming"}.get(kind, kind)):
        importlib.import_module(name)  # which is no part of its reading
    write, read = (globals()[f"{kind}_{verb}"] for verb in ("write", "read"))
    if kind == "ray" and "url" in options:
        next(iter(read(options["url"], "", 1)))  # the start of Ray and of its workers is not its reading

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        if question.get("write"):
            write(Path(question["source"]), Path(question["out"]))
            return {}
        began = time.perf_counter()
        count, first = 0, 0.0
        for batch in read(options["url"], question["cache"], options["workers"]):
            count += len(next(iter(batch.values())))
            first = first or time.perf_counter() - began
        return {"samples": count, "first": first, "seconds": time.perf_counter() - began}

    serve(answer)


if __name__ == "__main__":
    import sys

    arm(json.loads(sys.argv[sys.argv.index("--arm") + 1]))
