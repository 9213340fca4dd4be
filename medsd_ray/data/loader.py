"""Samples in training order: what a step sees depends on (seed, step) alone, whatever the number of workers."""

from __future__ import annotations

import io
import os
import queue
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from medsd_ray.data.cache import ShardCache
from medsd_ray.data.latents import OPEN_SHARDS, LatentReader, Tokenize
from medsd_ray.data.order import Order, batch_positions
from medsd_ray.data.shards import open_split
from medsd_ray.errors import InputError

STEPS_AHEAD = 4
BLOCK = tarfile.BLOCKSIZE


class ImageReader:
    """Pixels of image shards: (3, height, width) float32 in [-1, 1], grayscale repeated."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, list[tuple[int, int]]] = OrderedDict()

    def row(self, path: Path, row: int) -> dict[str, Tensor]:
        if path not in self._open:
            self._open[path] = _png_places(path)
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(path)
        offset, size = self._open[path][row]
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        try:
            image = Image.open(io.BytesIO(data))
            values = torch.from_numpy(np.array(image if image.mode == "L" else image.convert("RGB")))
        except OSError as error:
            raise InputError(f"{path}: image {row} cannot be read ({error}); run prepare again") from error
        scaled = values.float().div_(127.5).sub_(1)
        # Gray is scaled once and repeated as a view, which the batch then copies.
        return {"pixel_values": scaled.expand(3, -1, -1) if scaled.ndim == 2 else scaled.permute(2, 0, 1)}


def _png_places(path: Path) -> list[tuple[int, int]]:
    """(offset, bytes) of each sample's image in a tar, in order."""
    try:
        return _ustar_places(path)
    except ValueError:  # a tar of another kind, which tarfile knows to read
        pass
    try:
        with tarfile.open(path) as tar:
            return [(m.offset_data, m.size) for m in tar if m.name.partition(".")[2] == "png"]
    except tarfile.TarError as error:
        raise InputError(f"{path}: not a tar file ({error}); run prepare again") from error


def _ustar_places(path: Path) -> list[tuple[int, int]]:
    """The same of plain ustar headers (POSIX.1-1988), as `prepare` writes them; raises ValueError at any
    other.

    Each worker reads all headers of a shard for its part of the images: by tarfile, a node of eight would
    spend longer on headers than on images.
    """
    places, at = [], 0
    with path.open("rb") as file:
        while (header := os.pread(file.fileno(), BLOCK, at)).strip(b"\0"):
            prefix = header[345:500].strip(b"\0")
            if header[257:262] != b"ustar" or header[156:157] not in (b"0", b"\0") or prefix:
                raise ValueError(f"{path}: not a plain ustar file")
            size = int(header[124:136].rstrip(b"\0 "), 8)
            if size < 0:  # it would lead back, and tarfile round for ever
                raise InputError(f"{path}: not a tar file (one of {size} bytes in it); run prepare again")
            if header[:100].rstrip(b"\0").partition(b".")[2] == b"png":
                places.append((at + BLOCK, size))
            at += BLOCK + -(-size // BLOCK) * BLOCK
    if not places:
        raise ValueError(f"{path}: no image in it")
    return places


class ShardedDataset:
    """A split of image or latent shards, read by position (see order.py).

    `tokenize` makes `input_ids` of latents' captions. Raises InputError where the address has no finished
    split of that name, or one of text alone.
    """

    def __init__(
        self, url: str, split: str, seed: int, cache_dir: str | None = None, tokenize: Tokenize | None = None
    ):
        self.store, self.index = open_split(url, split)
        if self.index.kind not in ("image", "latent"):
            raise InputError(f"{self.store.url}: {self.index.kind} shards hold no images to train on")
        if not self.index.samples:
            raise InputError(
                f"{self.store.url}: no sample in this split; prepare more data or choose another split"
            )
        self.order = Order(tuple(shard.samples for shard in self.index.shards), seed)
        self.cache = ShardCache(self.store, self.index, cache_dir)
        self._reader = ImageReader() if self.index.kind == "image" else LatentReader(tokenize)

    @property
    def samples(self) -> int:
        return self.index.samples

    def sample_at(self, position: int) -> dict[str, Tensor]:
        """The sample at a position: `pixel_values`, or a row of latents.py."""
        shard, row = self.order.sample_at(position)
        return self._reader.row(self.cache.path(shard), row)

    def prefetch(self, position: int) -> None:
        """Starts fetching the shards of the position's block and of the one after it."""
        epoch, block = self.order.locate(position)
        self.cache.prefetch(self.order.block_shards_of(epoch, block))
        self.cache.prefetch(self.order.block_shards_of(epoch, block + 1))

    def batch(self, positions: range) -> dict[str, Tensor]:
        self.prefetch(positions[0])
        rows = [self.sample_at(position) for position in positions]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]} | {
            "positions": torch.tensor(positions)
        }


class WithPrior:
    """Training samples, each with one of a second data set: `prior_NAME` beside each NAME.

    Both are read at the same positions, each in its own order, so that the pairs too follow from (seed,
    position) alone.
    """

    def __init__(self, dataset: ShardedDataset, prior: ShardedDataset):
        self.dataset, self.prior = dataset, prior

    def batch(self, positions: range) -> dict[str, Tensor]:
        return self.dataset.batch(positions) | {
            f"prior_{name}": part for name, part in self.prior.batch(positions).items()
        }


def batches(
    dataset: ShardedDataset | WithPrior,
    *,
    first_step: int,
    last_step: int,
    global_batch_size: int,
    micro_batch_size: int,
    rank: int,
    world_size: int,
) -> Iterator[list[dict[str, Tensor]]]:
    """For each step in [first_step, last_step) this worker's micro batches, read ahead by a thread.

    Each has `positions` (int64) and the samples' tensors, stacked. What the thread raises is raised here.
    """
    ready: queue.Queue[list[dict[str, Tensor]] | BaseException] = queue.Queue(STEPS_AHEAD)
    stopped = threading.Event()

    def put(item: list[dict[str, Tensor]] | BaseException) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.2)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for step in range(first_step, last_step):
                if stopped.is_set():
                    return
                share = batch_positions(step, global_batch_size, rank, world_size)
                put(
                    [
                        dataset.batch(share[at : at + micro_batch_size])
                        for at in range(0, len(share), micro_batch_size)
                    ]
                )
        except BaseException as error:
            put(error)

    threading.Thread(target=read, name="read-ahead", daemon=True).start()
    try:
        for _ in range(first_step, last_step):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
