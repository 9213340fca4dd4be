"""Latent shards: one safetensors file a shard, with a row a sample.

Tensors: `mean` and `logvar` of the VAE's posterior, (n, channels, height, width) float32, unscaled; `input_ids`
(n, length) int32; and, where the text encoder is frozen, `text_embeddings` (n, length, width) float32. The index's meta
holds `model` (address), `fingerprint`, `vae_fingerprint`, `text_encoder_fingerprint`, `scaling_factor`, `empty_ids` and
`empty_embedding` of the empty caption, and `sources`, the checksums of the image shards.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from medsd_ray.errors import InputError

OPEN_SHARDS = 32


def to_bytes(tensors: dict[str, Tensor], keys: list[str]) -> bytes:
    """A shard's file; the samples' keys stand in its header."""
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={"keys": json.dumps(keys)})


class LatentReader:
    """Rows of latent shards. Files are memory-mapped and read a row at a time, so that memory stays flat."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, dict] = OrderedDict()

    def row(self, path: Path, row: int) -> dict[str, Tensor]:
        try:
            if path not in self._open:
                file = safe_open(path, framework="pt")
                self._open[path] = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (a file is no dict)
                if len(self._open) > OPEN_SHARDS:
                    self._open.popitem(last=False)
            self._open.move_to_end(path)
            return {name: part[row] for name, part in self._open[path].items()}
        except SafetensorError as error:
            raise InputError(f"{path}: not a latent shard ({error}); run encode again") from error
