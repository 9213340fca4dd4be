"""Latent shards: one safetensors file a shard, with a row a sample.

Tensors: `mean` and `logvar` of the VAE's posterior, (n, channels, height, width) float32, unscaled; and, for
a frozen text encoder, `text_embeddings` (n, length, width) float32. The header holds the samples' keys and
captions: a text encoder that is trained may have words or a tokenizer of its own, so that tokens are made of
captions when they are read. What else the image shards knew of a sample goes along: `notes` in the header has
its labels and domain, and for each name of a mask the tensor `mask.NAME` (bytes,) uint8 has the masks of all
rows as PNG, one after the other, and `mask_ends.NAME` (n,) int64 where each ends; a row without one has none
of the bytes. The index's meta holds `model` (address), `fingerprint`, `vae_fingerprint`,
`text_encoder_fingerprint`, `scaling_factor`, `sample_size` (the latents' height and width), the
`empty_embedding` of the empty caption, and `sources`, the checksums of the image shards.
"""

from __future__ import annotations

import json
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from medsd_ray.data.index_schema import LatentSampleNote
from medsd_ray.data.shard_png import read_mask, write_png
from medsd_ray.data.shards import Index
from medsd_ray.documents import MOST_JSON_BYTES, json_object, parse_json
from medsd_ray.errors import InputError
from medsd_ray.schemas import first_fault
from medsd_ray.storage import Storage

_MASK, _MASK_ENDS = "mask.", "mask_ends."
OPEN_SHARDS = 32
"""Shards that a reader keeps open; of more, the one that was read longest ago is closed."""
if TYPE_CHECKING:
    from torch import Tensor

Tokenize = Callable[[list[str]], "Tensor"]
"""From captions to token ids (B, L), int64."""


@dataclass(frozen=True)
class LatentNote:
    """What a latent shard knows of a sample beside its latents."""

    labels: dict[str, str | int | float | bool]
    domain: str | None
    """Where it comes from, such as a hospital; None where that is not known."""
    masks: dict[str, np.ndarray]
    """Name -> uint8, (height, width) as the image's (see `shards.Sample`)."""


def to_bytes(
    tensors: dict[str, Tensor],
    keys: list[str],
    captions: list[str],
    notes: Sequence[LatentNote] | None = None,
) -> bytes:
    """A shard's file: `tensors` by name, each with a row a sample; the samples' keys and captions; and what
    else is known of them, where it is.
    """
    from safetensors.torch import save  # it imports torch, which who asks for an index or a size need not

    header = {"keys": json.dumps(keys), "captions": json.dumps(captions)}
    if notes is not None:
        tensors = tensors | _mask_tensors(notes)
        header["notes"] = json.dumps([{"labels": note.labels, "domain": note.domain} for note in notes])
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=header)


def _mask_tensors(notes: Sequence[LatentNote]) -> dict[str, Tensor]:
    import torch

    found = {}
    for name in sorted({name for note in notes for name in note.masks}):
        parts = [write_png(note.masks[name]) if name in note.masks else b"" for note in notes]
        found[f"{_MASK}{name}"] = torch.frombuffer(bytearray(b"".join(parts)), dtype=torch.uint8)
        found[f"{_MASK_ENDS}{name}"] = torch.tensor([len(part) for part in parts]).cumsum(0)
    return found


def read_notes(path: Path) -> list[LatentNote]:
    """What a latent shard's file knows of its samples, in the order of its rows.

    Raises InputError where it is no latent shard, or one of an earlier version, which has no notes.
    """
    try:
        file: Any = safe_open(path, framework="pt")
        header = file.metadata() or {}
        if "notes" not in header:
            raise ValueError("of an earlier version, without labels and masks")
        names = [name.removeprefix(_MASK) for name in _names(file) if name.startswith(_MASK)]
        masks = {name: _masks_of(file, name) for name in names}
        notes, rows = parse_json(header["notes"]), file.get_slice("mean").get_shape()[0]
        if not isinstance(notes, list) or {len(notes), *map(len, masks.values())} != {rows}:
            raise ValueError("not as many notes as rows")
        for note in notes:
            if fault := first_fault(LatentSampleNote, note):
                raise ValueError(f"notes: {fault}")
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path}: not a latent shard with notes ({error}); run encode again") from error
    return [
        LatentNote(
            note["labels"],
            note["domain"],
            {name: mask for name, of_rows in masks.items() if (mask := of_rows[row]) is not None},
        )
        for row, note in enumerate(notes)
    ]


def _names(file: Any) -> list[str]:
    """The names of a safetensors file's tensors."""
    return file.keys()


def _masks_of(file: Any, name: str) -> list[np.ndarray | None]:
    """The masks of one name, a row each. Raises ValueError where they are none."""
    data = file.get_tensor(_MASK + name).numpy().tobytes()
    ends = [0, *file.get_tensor(_MASK_ENDS + name).tolist()]
    if sorted(ends) != ends or ends[-1] != len(data):
        raise ValueError(f"{name} with ends that are none")
    return [read_mask(data[start:end]) if end > start else None for start, end in pairwise(ends)]


def sample_size(store: Storage, index: Index) -> tuple[int, int]:
    """Height and width of a split's latents, of which all have one size.

    An index of an earlier version does not say it: there the first shard is fetched and looked into.

    Raises:
        InputError: The index is damaged, or the shard is missing or no latent shard.
    """
    if "sample_size" in index.meta:
        try:
            height, width = map(int, index.meta["sample_size"])
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{store.url}: its index has no size of latents ({error}); encode again"
            ) from error
        return height, width
    name = index.shards[0].name
    with tempfile.TemporaryDirectory(prefix="medsd-") as folder:
        path = Path(folder, name)
        try:
            store.download(name, path)
            shape = safe_open(path, framework="numpy").get_slice("mean").get_shape()
        except (FileNotFoundError, SafetensorError) as error:
            raise InputError(f"{store.url}/{name}: not a latent shard ({error}); run encode again") from error
    return shape[-2], shape[-1]


def read_captions(store: Storage, shard: str) -> list[str]:
    """The captions of a latent shard, from its header alone: the tensors, nearly all of it, are not fetched.

    Raises InputError where it is missing or no latent shard.
    """
    where = f"{store.url}/{shard}"
    try:
        # safetensors: eight bytes with the header's length, then the header, then the tensors.
        length = int.from_bytes(store.read(shard, 7), "little")
        if length > MOST_JSON_BYTES:
            raise ValueError(f"a header of {length} bytes")
        header = json_object(store.read(shard, 7 + length)[8:])
        return _texts(header["__metadata__"]["captions"])
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: not a latent shard ({error}); run encode again") from error


def _texts(data: str) -> list[str]:
    """The texts of a list in JSON. Raises ValueError for anything else."""
    found = parse_json(data)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError("captions that are no list of texts")
    return found


class LatentReader:
    """Rows of latent shards. Files are memory-mapped and read a row at a time, so that memory stays flat.

    With `tokenize` a row has the caption's `input_ids` (L,), and no text embeddings. Raises InputError where
    a file is no latent shard.
    """

    def __init__(self, tokenize: Tokenize | None = None) -> None:
        self.tokenize = tokenize
        self._open: OrderedDict[Path, tuple[dict[str, Any], list[str]]] = OrderedDict()

    def row(self, path: Path, row: int) -> dict[str, Tensor]:
        """The tensors of row number `row`, without the first dimension. Raises InputError where the file is
        no latent shard.
        """
        try:
            if path not in self._open:
                self._open[path] = self._read(path)
                if len(self._open) > OPEN_SHARDS:
                    self._open.popitem(last=False)
            self._open.move_to_end(path)
            parts, captions = self._open[path]
            tensors = {name: part[row] for name, part in parts.items()}
        except (SafetensorError, KeyError, IndexError, ValueError) as error:
            raise InputError(f"{path}: not a latent shard ({error}); run encode again") from error
        return tensors | ({"input_ids": self.tokenize([captions[row]])[0]} if self.tokenize else {})

    def _read(self, path: Path) -> tuple[dict[str, Any], list[str]]:
        """The shard's tensors and captions. Raises ValueError or SafetensorError for no shard."""
        file: Any = safe_open(path, framework="pt")
        unwanted = {"text_embeddings"} if self.tokenize else set()
        unwanted |= {name for name in _names(file) if name.startswith((_MASK, _MASK_ENDS))}
        parts = {
            name: file.get_tensor(name) for name in set(_names(file)) - unwanted
        }  # views of the mapped file
        dimensions = {"mean": 4, "logvar": 4, "text_embeddings": 3}
        for name, part in parts.items():
            if part.ndim != dimensions.get(name) or not part.is_floating_point():
                raise ValueError(f"{name} is {part.dtype} of shape {tuple(part.shape)}")
        if {"mean", "logvar"} - parts.keys() or parts["mean"].shape != parts["logvar"].shape:
            raise ValueError("no mean and logvar of one shape")
        captions = _texts((file.metadata() or {})["captions"]) if self.tokenize else []
        if len({*map(len, parts.values()), *([len(captions)] if self.tokenize else [])}) != 1:
            raise ValueError("not as many captions as rows")
        return parts, captions
