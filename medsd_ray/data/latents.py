"""Latent shards: one safetensors file a shard, with a row a sample.

Tensors: `mean` and `logvar` of the VAE's posterior, (n, channels, height, width) float32, unscaled; and, for
a frozen text encoder, `text_embeddings` (n, length, width) float32. The header holds the samples' keys and
captions: a text encoder that is trained may have words or a tokenizer of its own, so that tokens are made of
captions when they are read. The index's meta holds `model` (address), `fingerprint`, `vae_fingerprint`,
`text_encoder_fingerprint`, `scaling_factor`, `sample_size` (the latents' height and width), the
`empty_embedding` of the empty caption, and `sources`, the checksums of the image shards.
"""

from __future__ import annotations

import json
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from medsd_ray.data.shards import Index
from medsd_ray.documents import MOST_JSON_BYTES, json_object, parse_json
from medsd_ray.errors import InputError
from medsd_ray.storage import Storage

OPEN_SHARDS = 32
"""Shards that a reader keeps open; of more, the one that was read longest ago is closed."""
Tokenize = Callable[[list[str]], Tensor]
"""From captions to token ids (B, L), int64."""


def to_bytes(tensors: dict[str, Tensor], keys: list[str], captions: list[str]) -> bytes:
    """A shard's file: `tensors` by name, each with a row a sample; and the samples' keys and captions."""
    header = {"keys": json.dumps(keys), "captions": json.dumps(captions)}
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=header)


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
            shape = safe_open(path, framework="pt").get_slice("mean").get_shape()
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
        parts = {
            name: file.get_tensor(name) for name in set(file.keys()) - unwanted
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
