"""Masks that images are asked to follow: `generate --masks`, a folder of files or image shards.

A folder has `KEY.mask.NAME.png`, as the samples of shards do: NAME is the field of a condition, KEY says
which masks belong together. Image i follows set i modulo their number, in the order of the keys in a folder,
and in that of the samples in shards.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medsd_ray.data.shard_png import read_mask
from medsd_ray.data.shards import INDEX, iter_samples
from medsd_ray.errors import InputError
from medsd_ray.spec.conditions import ConditionSettings
from medsd_ray.storage import Storage, open_storage


@dataclass(frozen=True)
class MaskSet:
    """Masks of one image."""

    key: str
    masks: dict[str, np.ndarray]
    """By the condition's name, (height, width) uint8, above 0 inside."""


def read_mask_sets(address: str, settings: ConditionSettings, most: int) -> list[MaskSet]:
    """The first `most` sets with a mask that the model knows.

    Args:
        address: A folder of masks, or image shards: their root, of which the training split is taken, or one
            split; a folder or `s3://`.
        settings: The model's conditions.
        most: How many images there are.

    Raises:
        InputError: There is none, or one cannot be read, is of another size than the images, or, in a folder,
            has a name that the model does not know.
    """
    names = {one.field or name: name for name, one in settings.of_kind("mask").items()}
    if not names:
        raise InputError(f"--masks {address}: the model has no condition that is a mask; leave --masks out")
    store, found = open_storage(address), []
    read = _of_shards(address) if store.exists(INDEX) else _of_folder(store, names)
    for key, masks in read:
        known = {names[field]: mask for field, mask in masks.items() if field in names}
        for name, mask in known.items():
            if mask.shape != settings.image_size:
                height, width = settings.image_size
                raise InputError(
                    f"{store.url}: {key}: its mask {name} has {mask.shape[1]}x{mask.shape[0]} pixels, "
                    f"where the model's images have {width}x{height}; give masks of that size"
                )
        if known:
            found.append(MaskSet(key, known))
        if len(found) == most:
            break
    if not found:
        raise InputError(
            f"{store.url}: no mask of {', '.join(sorted(names))} here; give shards that have one, or "
            f"files named KEY.mask.{min(names)}.png"
        )
    return found


def _of_shards(address: str) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    for sample in iter_samples(address, "train"):
        yield sample.key, sample.masks


def _of_folder(store: Storage, names: dict[str, str]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    files: dict[str, dict[str, str]] = {}
    for key in sorted(store.list()):
        if match := re.fullmatch(r"([^/]+)\.mask\.([^./]+)\.png", key):
            files.setdefault(match[1], {})[match[2]] = key
    if unknown := sorted({name for of_key in files.values() for name in of_key} - names.keys()):
        raise InputError(
            f"{store.url}: the model knows no mask {unknown[0]!r}; it knows {', '.join(sorted(names))}"
        )
    for key, of_key in files.items():
        masks = {}
        for name, file in of_key.items():
            try:
                masks[name] = read_mask(store.read(file))
            except ValueError as error:
                raise InputError(f"{store.url}/{file}: not a mask of 8 bits ({error})") from error
        yield key, masks


def checksum(sets: list[MaskSet]) -> str:
    """SHA-256 over keys, names and pixels."""
    digest = hashlib.sha256()
    for one in sets:
        for name, mask in sorted(one.masks.items()):
            digest.update(f"{one.key}\0{name}\0{mask.shape}\0".encode() + (mask > 0).tobytes())
    return digest.hexdigest()
