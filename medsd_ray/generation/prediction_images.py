"""The images that a trained network is asked about: files of one folder, one file, or image shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from medsd_ray.addresses import path_of
from medsd_ray.data.shards import INDEX, iter_samples, list_splits, read_index
from medsd_ray.data.sources.files import image_files
from medsd_ray.data.sources.frames import chosen
from medsd_ray.data.sources.image_files import SUFFIXES, open_image, orientation
from medsd_ray.data.sources.source import BadSample
from medsd_ray.errors import InputError
from medsd_ray.storage import open_storage


@dataclass(frozen=True)
class PredictionImage:
    """An image as a viewer shows it: (height, width) or (height, width, 3) uint8; how its file's EXIF turned
    it, from 1, which is not at all, to 8; and the DICOM file that it is of.
    """

    name: str
    pixels: np.ndarray
    turned: int = 1
    dicom: Path | None = None


@dataclass(frozen=True)
class PredictionImages:
    """`stamp` changes when an image does; `read` gives the images in order, or why one cannot be read;
    `not_dicom` names one that is in no DICOM file, where there is one.
    """

    count: int
    stamp: str
    read: Callable[[], Iterator[PredictionImage | BadSample]]
    not_dicom: str | None


def find_images(address: str) -> PredictionImages:
    """The images at an address; none is decoded. Raises InputError where none are there."""
    if "://" in address or (path_of(address) / INDEX).is_file():
        return _in_shards(address)
    path = path_of(address)
    if path.is_file():
        return _files(path.parent, [path])
    if not path.is_dir():
        raise InputError(f"{address}: no such file or folder; give images, or shards that prepare wrote")
    found = {*image_files(path), *_dicom_files(path)}
    if not found:
        raise InputError(
            f"{address}: no images here ({', '.join(SUFFIXES)}, DICOM), and no {INDEX} of image shards"
        )
    return _files(path, sorted(found))


def _dicom_files(folder: Path) -> Iterator[Path]:
    """Without pydicom, which an extra brings, none are found where none is named as such."""
    if find_spec("pydicom") is None and not any(folder.rglob("*.dcm")):
        return iter(())
    from medsd_ray.data.sources.dicom_files import dicom_files

    return dicom_files(folder)


def _in_shards(address: str) -> PredictionImages:
    if not open_storage(address).exists(INDEX):
        raise InputError(f"{address}: no {INDEX} of image shards here; images are read from a local folder")
    splits = list_splits(address)
    indexes = [read_index(address, split) for split in splits]
    if other := next((index.kind for index in indexes if index.kind != "image"), None):
        raise InputError(f"{address}: {other} shards; give the image shards that prepare wrote")

    def read() -> Iterator[PredictionImage]:
        for split in splits:
            for sample in iter_samples(address, split):
                if sample.image is not None:
                    yield PredictionImage(sample.key, sample.image)

    sums = [shard.sha256 for index in indexes for shard in index.shards]
    return PredictionImages(sum(index.samples for index in indexes), _digest(sums), read, address)


def _files(folder: Path, paths: list[Path]) -> PredictionImages:
    names = [path.relative_to(folder).as_posix() for path in paths]
    stats = [path.stat() for path in paths]
    stamps = [[name, one.st_size, one.st_mtime_ns] for name, one in zip(names, stats, strict=True)]

    def read() -> Iterator[PredictionImage | BadSample]:
        for name, path in zip(names, paths, strict=True):
            try:
                yield _decoded(name, path)
            except BadSample as error:
                yield BadSample(f"{name}: {error}")

    other = next((name for name in names if _is_picture(Path(name))), None)
    return PredictionImages(len(paths), _digest(stamps), read, other)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _decoded(name: str, path: Path) -> PredictionImage:
    if _is_picture(path):
        return PredictionImage(name, open_image(path), orientation(path))
    from medsd_ray.data.sources.dicom_files import frame_count, image_size, read_frame, read_header

    header = read_header(path, ["Rows", "Columns", "NumberOfFrames"])
    image_size(header)
    chosen(frame_count(header), None)
    return PredictionImage(name, read_frame(path).image, dicom=path)


def _digest(parts: list) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
