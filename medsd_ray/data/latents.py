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
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
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

    from medsd_ray.data.conditions import ConditionTargets

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
        names = [name.removeprefix(_MASK) for name in _names(file) if name.startswith(_MASK)]
        known = _KnownOfRows.read(file, names)
        return [
            LatentNote(note["labels"], note["domain"], known.masks_of(row))
            for row, note in enumerate(_notes_of(file))
        ]
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path}: not a latent shard with notes ({error}); run encode again") from error


@dataclass(frozen=True)
class _KnownOfRows:
    """Of a shard's samples: the labels, and the masks of some names, as PNG."""

    labels: list[dict[str, str | int | float | bool]]
    masks: dict[str, tuple[Any, list[int]]]
    """Name -> the bytes of all rows, and where each row's begin and the last one's end."""

    @classmethod
    def read(cls, file: Any, names: Collection[str]) -> _KnownOfRows:
        """Raises ValueError where the shard knows nothing of its samples, or something else."""
        notes = _notes_of(file)
        found = {name: _png_of(file, name) for name in names if _MASK + name in _names(file)}
        if {len(ends) - 1 for _, ends in found.values()} - {len(notes)}:
            raise ValueError("not as many notes as rows")
        return cls([note["labels"] for note in notes], found)

    def masks_of(self, row: int) -> dict[str, np.ndarray]:
        """The masks that a row has, (height, width) uint8."""
        found = {}
        for name, (data, ends) in self.masks.items():
            if ends[row + 1] > ends[row]:
                found[name] = read_mask(data[ends[row] : ends[row + 1]].numpy().tobytes())
        return found


def _notes_of(file: Any) -> list[dict[str, Any]]:
    """What the header says of each row. Raises ValueError where it does not, or says something else."""
    header = file.metadata() or {}
    if "notes" not in header:
        raise ValueError("of an earlier version, without labels and masks")
    notes, rows = parse_json(header["notes"]), file.get_slice("mean").get_shape()[0]
    if not isinstance(notes, list) or len(notes) != rows:
        raise ValueError("not as many notes as rows")
    for note in notes:
        if fault := first_fault(LatentSampleNote, note):
            raise ValueError(f"notes: {fault}")
    return notes


def _png_of(file: Any, name: str) -> tuple[Any, list[int]]:
    """The masks of one name, as PNG one after the other, and where each row's begin and the last one's end.
    Raises ValueError where they are none.
    """
    data = file.get_tensor(_MASK + name)
    ends = [0, *file.get_tensor(_MASK_ENDS + name).tolist()]
    if sorted(ends) != ends or ends[-1] != len(data):
        raise ValueError(f"{name} with ends that are none")
    return data, ends


def _names(file: Any) -> list[str]:
    """The names of a safetensors file's tensors."""
    return file.keys()


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
        return _texts(_header(store, shard)["captions"])
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: not a latent shard ({error}); run encode again") from error


def read_labels(store: Storage, shard: str) -> list[dict[str, str | int | float | bool]]:
    """The labels of a latent shard's samples, from its header alone. Raises InputError where it is missing,
    no latent shard, or one of an earlier version.
    """
    where = f"{store.url}/{shard}"
    try:
        notes = parse_json(_header(store, shard)["notes"])
        if not isinstance(notes, list):
            raise ValueError("notes that are no list")
        for note in notes:
            if fault := first_fault(LatentSampleNote, note):
                raise ValueError(f"notes: {fault}")
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: not a latent shard with labels ({error}); run encode again") from error
    return [note["labels"] for note in notes]


def _header(store: Storage, shard: str) -> dict[str, str]:
    """What the header of a latent shard holds beside its tensors. Raises ValueError, KeyError or TypeError
    for what is none.
    """
    # safetensors: eight bytes with the header's length, then the header, then the tensors.
    length = int.from_bytes(store.read(shard, 7), "little")
    if length > MOST_JSON_BYTES:
        raise ValueError(f"a header of {length} bytes")
    return json_object(store.read(shard, 7 + length)[8:])["__metadata__"]


def _texts(data: str) -> list[str]:
    """The texts of a list in JSON. Raises ValueError for anything else."""
    found = parse_json(data)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError("captions that are no list of texts")
    return found


class LatentReader:
    """Rows of latent shards. Files are memory-mapped and read a row at a time, so that memory stays flat.

    With `tokenize` a row has the caption's `input_ids` (L,), and no text embeddings; with `conditions` it has
    those of the sample's labels and masks. Raises InputError where a file is no latent shard.
    """

    def __init__(self, tokenize: Tokenize | None = None, conditions: ConditionTargets | None = None) -> None:
        self.tokenize, self.conditions = tokenize, conditions
        self._open: OrderedDict[Path, tuple[dict[str, Any], list[str], _KnownOfRows | None]] = OrderedDict()

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
            parts, captions, known = self._open[path]
            tensors = {name: part[row] for name, part in parts.items()}
            if self.conditions and known:
                tensors |= self.conditions.row(known.labels[row], known.masks_of(row))
        except (SafetensorError, KeyError, IndexError, ValueError) as error:
            raise InputError(f"{path}: not a latent shard ({error}); run encode again") from error
        return tensors | ({"input_ids": self.tokenize([captions[row]])[0]} if self.tokenize else {})

    def _read(self, path: Path) -> tuple[dict[str, Any], list[str], _KnownOfRows | None]:
        """The shard's tensors and captions, and what conditions are taken from. Raises ValueError or
        SafetensorError for no shard.
        """
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
        known = _KnownOfRows.read(file, self.conditions.masks) if self.conditions else None
        return parts, captions, known
