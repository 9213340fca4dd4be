"""Shards: WebDataset tar files that other tools read too, and an index that says what is complete.

A split is a folder of `shard-00000.tar`, … and an `index.json`, written last. A sample KEY is `KEY.png`
(8-bit, grayscale or RGB), `KEY.txt` (caption), `KEY.json` (patient pseudonym, labels, domain) and
`KEY.mask.NAME.png` for each mask of it (8-bit label map, or 0 and 255). Text samples have no `.png`. A shard
holds samples of one domain alone, and the index says of which, so that a domain can be left out unread. The
root above the splits has an `index.json` of its own, the very last file.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np

from medsd_ray.data.index_schema import SampleNote, SplitIndex, WrittenShard
from medsd_ray.data.shard_png import read_mask, read_png, write_png
from medsd_ray.data.tar import read_tar
from medsd_ray.documents import json_object
from medsd_ray.errors import InputError
from medsd_ray.schemas import first_fault
from medsd_ray.storage import Storage, entry_of_bytes, open_storage

FORMAT = "medsd-shards/2"
"""The value of `format` in an index."""
READABLE = ("medsd-shards/1", FORMAT)
"""The formats that are read. In the first a sample had one mask, `KEY.mask.png`: a phantom's effusion."""
INDEX = "index.json"
"""The last file of a split, and of the root above the splits."""
SPLITS = ("train", "validation", "test")


@dataclass
class Sample:
    """One image with its caption, as a shard holds it."""

    key: str
    """Its name in the data set: a pseudonym, or a public name."""
    image: np.ndarray | None
    """uint8, (height, width) or (height, width, 3); None for text alone."""
    caption: str
    """The report, or a part of it."""
    patient: str
    """The patient's pseudonym, or public name."""
    labels: dict[str, str | int | float | bool] = field(default_factory=dict)
    """Name -> value, such as `finding`."""
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    """Name -> uint8, (height, width): a label map, 0 the background, or 0 and 255. What is not known is
    absent.
    """
    domain: str | None = None
    """Where it comes from, such as a hospital; None where that is not known."""


@dataclass(frozen=True)
class Shard:
    """A shard as its split's index names it."""

    name: str
    """The file's name in the split's folder."""
    samples: int
    """How many it holds."""
    bytes: int
    """The file's size."""
    sha256: str
    """The file's checksum, in hexadecimal."""
    domain: str | None = None
    """Where all of its samples come from; None where that is not known."""

    def entry(self) -> dict:
        """As an index or a note names it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Index:
    """What one split holds."""

    kind: str
    """`image`, `text` or `latent`."""
    split: str
    """`train`, `validation` or `test`."""
    shards: tuple[Shard, ...]
    """In the order in which they were written."""
    meta: dict
    """What the writer noted beside the shards, such as `size` or the model's fingerprint."""

    @property
    def samples(self) -> int:
        """Of all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Of all shards."""
        return sum(shard.bytes for shard in self.shards)


def write_index(store: Storage, index: Index) -> None:
    """Writes a split's index: after it, the split is complete."""
    totals = {
        "format": FORMAT,
        "kind": index.kind,
        "split": index.split,
        "samples": index.samples,
        "bytes": index.bytes,
    }
    store.sync(shard.name for shard in index.shards)
    store.write_json(INDEX, totals | index.meta | {"shards": [shard.entry() for shard in index.shards]})
    store.sync([INDEX])


def parse_index(value: dict, where: str) -> Index:
    """The index that a split's index.json says; `where` is its address, for messages. Raises InputError where
    it is no index of a split.
    """
    made = value.get("format")
    if isinstance(made, str) and made not in READABLE:
        raise InputError(
            f"{where}: format {made[:40]!r} is not {' or '.join(READABLE)}; make the shards anew with "
            "this medsd"
        )
    if fault := first_fault(SplitIndex, value):
        raise InputError(f"{where}: not an index of shards ({fault}); run prepare or encode again")
    own = {"format", "kind", "split", "samples", "bytes", "shards"}
    meta = {name: part for name, part in value.items() if name not in own}
    return Index(value["kind"], value["split"], tuple(map(parse_shard, value["shards"])), meta)


def parse_shard(entry: dict) -> Shard:
    """A shard as an index or a note names it, which has passed `index_schema.ShardEntry`."""
    return Shard(entry["name"], entry["samples"], entry["bytes"], entry["sha256"], entry.get("domain"))


def open_split(url: str, split: str) -> tuple[Storage, Index]:
    """Finds a split.

    Args:
        url: The root of all splits, or the split itself.
        split: The name of the split below the root.

    Returns:
        The store of the split, and its index.

    Raises:
        InputError: Neither is there, or the data set is unfinished.
    """
    store = open_storage(url)
    for candidate in (store.child(split), store):
        where = f"{candidate.url}/{INDEX}"
        try:
            value = candidate.read_json(INDEX)
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise InputError(f"{where}: not JSON; run prepare or encode again") from error
        if "shards" in value:
            return candidate, parse_index(value, where)
    raise InputError(
        f"{url}: no finished {split!r} split here (no {INDEX}); run prepare or encode, or mend the address"
    )


def read_index(url: str, split: str = "train") -> Index:
    """The index of a split. Raises InputError as `open_split` does."""
    return open_split(url, split)[1]


def list_splits(url: str) -> list[str]:
    """The splits below a root, or the one that the address itself is. Raises InputError where there is
    none.
    """
    store = open_storage(url)
    splits = [split for split in SPLITS if store.child(split).exists(INDEX)]
    return splits or [open_split(url, "train")[1].split]


def _fields(sample: Sample) -> Iterator[tuple[str, bytes]]:
    if sample.image is not None:
        yield "png", write_png(sample.image)
    for name, mask in sorted(sample.masks.items()):
        yield f"mask.{name}.png", write_png(mask)
    yield "txt", sample.caption.encode()
    note = {"patient": sample.patient, "labels": sample.labels}
    note |= {"domain": sample.domain} if sample.domain is not None else {}
    yield "json", json.dumps(note, sort_keys=True).encode()


class ShardWriter:
    """Writes one split, shard by shard; `finish` writes the index.

    A shard ends where it is full, and where the samples' domain changes: they come domain by domain, or there
    are more shards than need be. Beside each finished shard stands a sidecar with the caller's note on each
    of its samples. A writer that is started again on an unfinished split goes on after those shards: `notes`
    says which samples they hold.
    """

    def __init__(self, store: Storage, max_bytes: int, kind: str, split: str, **meta):
        """Goes on where an interrupted writer stopped.

        Args:
            store: The split's own folder.
            max_bytes: The size of a shard at most, unless a single sample is larger.
            kind: `image` or `text`.
            split: The split's name.
            **meta: Goes into the index.
        """
        self.store, self.max_bytes, self.kind, self.split, self.meta = store, max_bytes, kind, split, meta
        self.shards: list[Shard] = []
        self.notes: list[dict] = []
        while (sidecar := self._read_sidecar()) and store.exists(sidecar["shard"]["name"]):
            self.shards.append(parse_shard(sidecar["shard"]))
            self.notes += sidecar["notes"]
        self._start()

    def _sidecar(self) -> str:
        return f".progress/shard-{len(self.shards):05d}.json"

    def _read_sidecar(self) -> dict | None:
        try:
            value = self.store.read_json(self._sidecar())
        except FileNotFoundError:
            return None
        if fault := first_fault(WrittenShard, value):
            where = f"{self.store.url}/{self._sidecar()}"
            raise InputError(f"{where}: damaged ({fault}); remove {self.store.url}")
        return value

    def _start(self) -> None:
        self._buffer, self._notes, self._domain = io.BytesIO(), [], None
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def write(self, sample: Sample, note: dict | None = None) -> None:
        """Adds a sample. `note`, which fits in JSON, comes back in `notes` when an interrupted split goes
        on.
        """
        fields = list(_fields(sample))
        blocks = 2 + sum(
            1 + -(-len(data) // tarfile.BLOCKSIZE) for _, data in fields
        )  # headers, contents, the tar's end
        ends = self._buffer.tell() + blocks * tarfile.BLOCKSIZE
        full = -(-ends // tarfile.RECORDSIZE) * tarfile.RECORDSIZE > self.max_bytes
        if self._notes and (full or sample.domain != self._domain):
            self._close()
        self._domain = sample.domain
        for extension, data in fields:
            info = tarfile.TarInfo(f"{sample.key}.{extension}")
            info.size = len(data)  # time and owner stay 0, so that equal samples make equal shards
            self._tar.addfile(info, io.BytesIO(data))
        self._notes.append(note or {})

    def _close(self) -> None:
        self._tar.close()
        data = self._buffer.getvalue()
        name = f"shard-{len(self.shards):05d}.tar"
        shard = Shard(name, len(self._notes), **entry_of_bytes(data), domain=self._domain)
        self.store.write(shard.name, data)
        self.store.write_json(self._sidecar(), {"shard": shard.entry(), "notes": self._notes})
        self.shards.append(shard)
        self._start()

    def finish(self) -> Index:
        """Writes what is left and the index, which makes the split complete; returns the index."""
        if self._notes:
            self._close()
        index = Index(self.kind, self.split, tuple(self.shards), self.meta)
        write_index(self.store, index)
        self.store.delete_tree(".progress")
        return index


def check_shard(data: bytes, shard: Shard, where: str) -> bytes:
    """The same bytes, or InputError where they are not those that the index names."""
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        raise InputError(
            f"{where}: corrupt shard: its checksum differs from the index's; copy it again or run prepare "
            "again"
        )
    return data


def decode_sample(key: str, fields: dict[str, bytes], where: str) -> Sample:
    """A sample from its members in a tar: extension -> bytes. Raises InputError, with `where` in it, where
    one is missing or damaged.
    """
    try:
        note = json_object(fields["json"])
        if fault := first_fault(SampleNote, note):
            raise ValueError(f"json: {fault}")
        image = read_png(fields["png"]) if "png" in fields else None
        masks = {name: read_mask(data) for field, data in fields.items() if (name := mask_of(field))}
        caption, domain = fields["txt"].decode(), note.get("domain")
        return Sample(key, image, caption, note["patient"], note["labels"], masks, domain)
    except (KeyError, ValueError, OSError) as error:
        raise InputError(f"{where}: sample {key} cannot be read ({error}); run prepare again") from error


def mask_of(field: str) -> str | None:
    """The mask's name of a member's extension; None of what is no mask."""
    if field == "mask.png":
        return "effusion"
    match = re.fullmatch(r"mask\.([^.]+)\.png", field)
    return match and match[1]


def read_shard(store: Storage, shard: Shard) -> Iterator[Sample]:
    """The samples of one image shard, in order; its checksum is checked first."""
    where = f"{store.url}/{shard.name}"
    try:
        data = check_shard(store.read(shard.name), shard, where)
    except FileNotFoundError as error:
        raise InputError(
            f"{where}: missing, though the index names it; copy it again or run prepare again"
        ) from error
    for key, fields in read_tar(data, where):
        yield decode_sample(key, fields, where)


def iter_samples(url: str, split: str) -> Iterator[Sample]:
    """All samples of a split in their stored order.

    Raises:
        InputError: There is no finished split, it holds latents, or a shard is missing or damaged.
    """
    store, index = open_split(url, split)
    if index.kind == "latent":
        raise InputError(f"{store.url}: latent shards; this needs the image shards that prepare wrote")
    for shard in index.shards:
        yield from read_shard(store, shard)
