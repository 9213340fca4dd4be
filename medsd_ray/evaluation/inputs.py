"""What an evaluation reads: real images by split, generated ones with their prompts, and the record of a
training run.

Real images come from the shards that `prepare` wrote or from a plain folder; generated ones from a folder
that `generate` wrote or from a plain folder. All are brought to one size (the generated images') and one
number of channels.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageOps

from medsd_ray.data.shards import INDEX, iter_samples, list_splits, read_index
from medsd_ray.data.sources.image_files import SUFFIXES, open_image
from medsd_ray.data.sources.source import BadSample
from medsd_ray.errors import InputError
from medsd_ray.runs.names import GENERATED
from medsd_ray.storage import Storage, open_storage


@dataclass(frozen=True)
class ImageSet:
    """Images and what is known of each. `pixels` is (N, H, W, C) uint8 with C 1 or 3; the lists have length
    N.
    """

    pixels: np.ndarray
    keys: list[str]
    captions: list[str]  # the report of a real image, the prompt of a generated one, "" where there is none
    groups: list[str]  # the patient, so that resampling keeps a patient's images together; else the key
    labels: list[str | None]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def patients(self) -> int:
        return len(set(self.groups))

    def checksum(self) -> str:
        digest = hashlib.sha256(self.pixels.tobytes())
        digest.update(json.dumps([self.keys, self.captions, self.groups, self.labels]).encode())
        return digest.hexdigest()

    def take(self, indices) -> ImageSet:
        picked = [int(i) for i in indices]
        lists = {
            name: [getattr(self, name)[i] for i in picked]
            for name in ("keys", "captions", "groups", "labels")
        }
        return replace(self, pixels=self.pixels[picked], **lists)


def concatenate(sets: list[ImageSet]) -> ImageSet:
    lists = {
        name: [v for s in sets for v in getattr(s, name)] for name in ("keys", "captions", "groups", "labels")
    }
    return ImageSet(pixels=np.concatenate([s.pixels for s in sets]), **lists)


@dataclass
class _UnsizedImages:
    """An ImageSet whose images may still differ in size: each is (h, w) or (h, w, 3), uint8.

    Where `size` (height, width) is known already, images are brought to it as they come, so that large ones
    do not fill the memory.
    """

    size: tuple[int, int] | None = None
    images: list[np.ndarray] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    """What they had at first, (height, width)."""

    def add(
        self, image: np.ndarray, key: str, caption: str = "", group: str = "", label: str | None = None
    ) -> None:
        height, width = image.shape[:2]
        self.sizes.add((height, width))
        if self.size not in (None, (height, width)):
            image = _fitted(image, self.size, 3 if image.ndim == 3 else 1)
            image = image if image.shape[2] == 3 else image[..., 0]
        self.images.append(image)
        self.keys.append(key)
        self.captions.append(caption)
        self.groups.append(group or key)
        self.labels.append(label)

    @property
    def coloured(self) -> bool:
        return any(image.ndim == 3 and bool((image != image[..., :1]).any()) for image in self.images)

    def stacked(self, size: tuple[int, int], channels: int) -> ImageSet:
        pixels = np.stack([_fitted(image, size, channels) for image in self.images])
        return ImageSet(pixels, self.keys, self.captions, self.groups, self.labels)


@dataclass(frozen=True)
class Inputs:
    """All images of an evaluation, at one size. `real` holds the splits by name, or `all` for a plain
    folder.
    """

    real: dict[str, ImageSet]
    generated: ImageSet
    base: ImageSet | None
    manifest: dict  # what generate.json says besides its images; empty for a plain folder
    notes: list[str]  # what was done to the images, in words

    def checksum(self) -> str:
        digest = hashlib.sha256()
        for name, images in [*self.real.items(), ("generated", self.generated), ("base", self.base)]:
            digest.update(f"{name} {images and images.pixels.shape}".encode())
            if images is not None:
                digest.update(images.pixels.tobytes())
                digest.update(
                    json.dumps([images.keys, images.captions, images.groups, images.labels]).encode()
                )
        return digest.hexdigest()


def read_inputs(real: str, generated: str, base: str | None, label: str) -> Inputs:
    """Reads all images and brings the real and base ones to the size of the generated ones.

    Raises InputError for an address without images, an unreadable image, or generated images of several
    sizes.
    """
    made, manifest = _read_generated(generated)
    if len(made.sizes) > 1:
        raise InputError(
            f"{generated}: images of several sizes {sorted(made.sizes)}; evaluate one size at a time"
        )
    (size,) = made.sizes
    before = _read_generated(base, size)[0] if base else None
    splits = _read_real(real, label, size)
    channels = 3 if any(raw.coloured for raw in splits.values()) else 1
    notes = []
    for name, raw in [*splits.items(), ("base", before)]:
        others = {s for s in raw.sizes if s != size} if raw else set()
        if others:
            kind = "Images of the model before adaptation" if name == "base" else f"Real images ({name})"
            was = ", ".join(f"{w}x{h}" for h, w in sorted(others)[:3]) + (
                " and more" if len(others) > 3 else ""
            )
            notes.append(
                f"{kind} of {was} were resized (with antialiasing) to the generated images' "
                f"{size[1]}x{size[0]}."
            )
    found = Inputs(
        real={name: raw.stacked(size, channels) for name, raw in splits.items()},
        generated=made.stacked(size, channels),
        base=before.stacked(size, channels) if before else None,
        manifest=manifest,
        notes=notes,
    )
    said = [_of_one_value(images) for images in (found.generated, found.base, *found.real.values()) if images]
    notes.extend(line for line in said if line)
    return found


def _of_one_value(images: ImageSet) -> str | None:
    """What to say of images that show nothing; None where there are none."""
    flat = images.pixels.min(axis=(1, 2, 3)) == images.pixels.max(axis=(1, 2, 3))
    if not flat.any():
        return None
    first = images.keys[int(flat.argmax())]
    count = int(flat.sum())
    return f"{count} of {len(images)} images are of one value, such as all black; {first} is the first."


def read_made(url: str, size: tuple[int, int], channels: int) -> ImageSet:
    """Generated images at `size` (height, width). Raises InputError as `read_inputs` does."""
    return _read_generated(url, size)[0].stacked(size, channels)


def read_real(real: str, label: str, size: tuple[int, int] | None = None) -> dict[str, ImageSet]:
    """The real images by split, at `size` (height, width), or that of the first. Raises InputError as
    `read_inputs` does.
    """
    splits = _read_real(real, label, size)
    channels = 3 if any(raw.coloured for raw in splits.values()) else 1
    size = size or next(iter(splits.values())).images[0].shape[:2]
    return {name: raw.stacked(size, channels) for name, raw in splits.items()}


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """One image, (h, w) or (h, w, 3) uint8, at `size` (height, width) as the others are: (H, W, C)."""
    return _fitted(image, size, 3 if image.ndim == 3 else 1)


def _fitted(image: np.ndarray, size: tuple[int, int], channels: int) -> np.ndarray:
    """(h, w) or (h, w, 3) uint8 -> (H, W, channels): cut to the aspect ratio about the centre, then
    resized.
    """
    picture = Image.fromarray(image).convert("RGB" if channels == 3 else "L")
    if image.shape[:2] != size:
        picture = ImageOps.fit(picture, (size[1], size[0]), method=Image.Resampling.BICUBIC)
    return np.asarray(picture).reshape(*size, channels)


def decode(data: bytes, where: str) -> np.ndarray:
    """An image file's pixels as `prepare` reads them: (h, w) or (h, w, 3), uint8. Raises InputError where it
    cannot be read.
    """
    try:
        return open_image(data)
    except BadSample as error:
        raise InputError(f"{where}: {error}") from error


def _folder_images(store: Storage) -> list[str]:
    return [
        key
        for key in store.list()
        if key.lower().endswith(SUFFIXES) and not key.rpartition("/")[2].startswith(".")
    ]


def _read_generated(url: str, size: tuple[int, int] | None = None) -> tuple[_UnsizedImages, dict]:
    store, raw = open_storage(url), _UnsizedImages(size)
    try:
        manifest = store.read_json(GENERATED)
        entries = [(str(e["file"]), str(e.get("prompt", ""))) for e in manifest.pop("images")]
    except FileNotFoundError:
        manifest, entries = {}, [(key, "") for key in _folder_images(store)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{url}/{GENERATED}: not what `medsd generate` writes; generate again or remove it"
        ) from error
    for key, prompt in entries:
        try:
            raw.add(decode(store.read(key), f"{url}/{key}"), key, prompt)
        except FileNotFoundError as error:
            raise InputError(f"{url}/{key}: named in {GENERATED} but not there; generate again") from error
    if not raw.images:
        raise InputError(
            f"{url}: no images here; give a folder that `medsd generate` wrote, or one of PNG files"
        )
    return raw, manifest


def check_real(url: str) -> list[str]:
    """The splits of real images at an address; none of a plain folder. No image is read.

    Raises InputError where neither shards of images nor images are there.
    """
    store = open_storage(url)
    if not store.exists(INDEX):
        if not _folder_images(store):
            raise InputError(
                f"{url}: neither shards ({INDEX}) nor images here; give what `medsd prepare` wrote or a "
                "folder"
            )
        return []
    splits = list_splits(url)
    for split in splits:
        kind = read_index(url, split).kind
        if kind != "image":
            raise InputError(
                f"{url}: {kind} shards ({split}); evaluate compares images, so give what `medsd prepare` "
                "wrote"
            )
    return splits


def _read_real(url: str, label: str, size: tuple[int, int] | None) -> dict[str, _UnsizedImages]:
    names = check_real(url)
    if not names:
        return {"all": _read_real_folder(open_storage(url), url, size)}
    splits = {}
    for split in names:
        raw = _UnsizedImages(size)
        for sample in iter_samples(url, split):
            if sample.image is not None:
                value = sample.labels.get(label)
                raw.add(
                    sample.image,
                    sample.key,
                    sample.caption,
                    sample.patient,
                    None if value is None else str(value),
                )
        if raw.images:
            splits[split] = raw
    if not splits:
        raise InputError(f"{url}: no images in these shards; prepare a source that has images")
    return splits


def _read_real_folder(store: Storage, url: str, size: tuple[int, int] | None) -> _UnsizedImages:
    raw = _UnsizedImages(size)
    for key in _folder_images(store):
        raw.add(decode(store.read(key), f"{url}/{key}"), key)
    return raw
