"""Images and DICOM files, and the folders of images that verbs read."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from dicoms import RAMP, dicom
from fuzz.campaign import Files, Reader
from fuzz.children import holds, shown
from fuzz.mutations import cut_short, damaged, odd_json
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels import compress
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from medsd_ray.data.sources import dicom as dicom_source
from medsd_ray.data.sources.image_files import open_image
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import BadSample
from medsd_ray.evaluation.inputs import read_inputs

RANDOM = np.random.default_rng(0)
GRAY = RANDOM.integers(0, 256, (24, 20), dtype=np.uint8)
RGB = RANDOM.integers(0, 256, (24, 20, 3), dtype=np.uint8)
DEEP = RANDOM.integers(0, 65536, (24, 20), dtype=np.uint16)
SECRETS = ("Zzyzx^Quentin", "19010203", "MRN-77314159", "St Elsewhere", "1.2.826.0.1.3680043.8.498.777")
"""What stands in the seeds' tags that tell who somebody is. The folder's own names hold none of them."""


def _saved(pixels: np.ndarray, kind: str, mode: str | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


EXIF = Image.Exif()
EXIF[0x0112] = 6
IMAGES: dict[str, list[bytes]] = {
    "PNG": [
        _saved(GRAY, "PNG"), _saved(RGB, "PNG"), _saved(DEEP, "PNG"), _saved(RGB, "PNG", "P"),
        _saved(GRAY, "PNG", "1"),
        _saved(RGB, "PNG", "RGBA"), _saved(GRAY, "PNG", "LA"), _saved(RGB, "PNG", exif=EXIF),
        _saved(GRAY, "PNG", save_all=True, append_images=[Image.fromarray(255 - GRAY)]),
    ],
    "JPEG": [
        _saved(GRAY, "JPEG"), _saved(RGB, "JPEG", exif=EXIF), _saved(RGB, "JPEG", progressive=True),
        _saved(RGB, "JPEG", "CMYK"), _saved(GRAY, "JPEG", restart_marker_rows=1),
    ],
    "TIFF": [
        _saved(GRAY, "TIFF"), _saved(DEEP, "TIFF"), _saved(RGB, "TIFF", compression="tiff_lzw"),
        _saved(GRAY.astype(np.float32), "TIFF"), _saved(GRAY, "TIFF", "1", compression="group4"),
        _saved(RGB, "TIFF", compression="jpeg"), _saved(DEEP, "TIFF", compression="tiff_adobe_deflate"),
        _saved(GRAY, "TIFF", save_all=True, append_images=[Image.fromarray(GRAY)]), _saved(RGB, "TIFF", "P"),
    ],
    "BMP": [_saved(GRAY, "BMP"), _saved(RGB, "BMP"), _saved(GRAY, "BMP", "1")],
}  # fmt: skip


def _check_image(image: np.ndarray) -> None:
    holds(image.dtype == np.uint8, "8 bits")
    holds(image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3), f"gray or RGB, not {image.shape}")
    holds(image.size, "some pixels")


def read_image(folder: Path) -> None:
    """A file and its bytes are one image."""
    path = folder / "image"
    image = open_image(path)
    _check_image(image)
    holds(np.array_equal(image, open_image(path.read_bytes())), "a file's bytes are the same image")


def read_cut_image(folder: Path) -> None:
    """Of a file without its end no image is made but the whole one."""
    whole = open_image(folder / "whole")
    holds(np.array_equal(open_image(folder / "image"), whole), "a file without its end is not taken")


def read_drawn_image(folder: Path) -> None:
    """What lossless formats hold of 8 bits comes back value by value."""
    try:
        image = open_image(folder / "image")
    except BadSample as error:
        holds(False, f"a good image is taken: {error}")
        return
    holds(np.array_equal(image, np.load(folder / "pixels.npy")), "its pixels are those that were saved")


@st.composite
def _drawn_images(draw: DrawFn) -> Files:
    height, width, colour = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.booleans())
    shape = (height, width, 3) if colour else (height, width)
    count = int(np.prod(shape))
    pixels = np.frombuffer(draw(st.binary(min_size=count, max_size=count)), np.uint8).reshape(shape)
    kind, options = draw(st.sampled_from([
        ("PNG", {}), ("PNG", {"optimize": True}), ("BMP", {}), ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "packbits"}), ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ]))  # fmt: skip
    data = _saved(np.ascontiguousarray(pixels), kind, **options)
    gray = pixels[..., 0] if colour and bool((pixels == pixels[..., :1]).all()) else pixels
    buffer = io.BytesIO()
    np.save(buffer, gray)
    return {"image": data, "pixels.npy": buffer.getvalue()}


def _dicom_bytes(data: pydicom.Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    name, born, patient, hospital, instance = SECRETS
    data.PatientName, data.PatientBirthDate, data.PatientID = name, born, patient
    data.InstitutionName, data.StudyInstanceUID, data.ReferringPhysicianName = hospital, instance, name
    data.ImageComments, data.SeriesDescription, data.PatientSex = f"{name} {hospital}", name, "F"
    data.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def _dicoms() -> list[bytes]:
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    small = np.ascontiguousarray(RAMP[:16, ::8])
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    jpeg, j2k = dicom(GRAY, **eight), dicom(GRAY, **eight)
    jpeg.PixelData = encapsulate([_saved(GRAY, "JPEG")])
    j2k.PixelData = encapsulate([_saved(GRAY, "JPEG2000", no_jp2=True)])
    rle, frames = dicom(small), dicom(small, NumberOfFrames=2)
    compress(rle, RLELossless)
    frames.PixelData = small.tobytes() * 2
    big = dicom(small)
    big.PixelData = small.astype(">u2").tobytes()
    window = {"WindowCenter": 1000, "WindowWidth": 500, "RescaleSlope": -1, "RescaleIntercept": 4000}
    palette = dicom(
        GRAY, PixelPaddingValue=0, PhotometricInterpretation="MONOCHROME1", VOILUTFunction="SIGMOID"
    )
    return [
        _dicom_bytes(dicom(small, **window)), _dicom_bytes(dicom(GRAY)), _dicom_bytes(dicom(RGB, **colour)),
        _dicom_bytes(palette), _dicom_bytes(dicom(small.astype(np.int16))), _dicom_bytes(frames),
        _dicom_bytes(dicom(small), ImplicitVRLittleEndian), _dicom_bytes(big, ExplicitVRBigEndian),
        _dicom_bytes(dicom(small), DeflatedExplicitVRLittleEndian), _dicom_bytes(rle, RLELossless),
        _dicom_bytes(jpeg, JPEGBaseline8Bit), _dicom_bytes(j2k, JPEG2000Lossless),
    ]  # fmt: skip


DICOMS = _dicoms()


def read_dicom(folder: Path) -> None:
    """Nothing that tells who somebody is comes out of a file, in a sample or in a message."""
    source = dicom_source.scan(SourceRequest(str(folder), frames="all"))
    said = [*source.problems, *source.notes]
    images = 0
    for record in source.records[:3]:
        try:
            content = record.read()
        except BadSample as error:
            said.append(str(error))
            continue
        _check_image(content.image if content.image is not None else np.empty(0))
        images += 1
        said += [content.caption, *content.warnings, *content.oddities]
        for name, value in content.labels.items():
            holds(
                value in dicom_source.ALLOWED[name],
                f"only known codes become labels, not {value!r} of {name}",
            )
    for text in shown(said):
        holds(not any(secret in text for secret in SECRETS), f"no message tells who somebody is: {text!r}")
    if not images:
        raise BadSample(said[0] if said else "no DICOM file")


def read_cut_dicom(folder: Path) -> None:
    """Of a file without its end no image is made but the whole one."""

    def image(name: str) -> np.ndarray:
        (record,) = dicom_source.scan(SourceRequest(str(folder / name), frames="first")).records or [None]
        if record is None:
            raise BadSample("no image")
        return np.asarray(record.read().image)

    holds(np.array_equal(image("cut"), image("whole")), "a file without its end is not taken")


def _cut(name: str, whole: str, seeds: list[bytes]) -> SearchStrategy[Files]:
    one: Callable[[bytes], SearchStrategy[Files]] = lambda seed: cut_short(seed).map(
        lambda cut: {name: cut, whole: seed}
    )
    return st.sampled_from(seeds).flatmap(one)


MADE = {
    "format": "medsd-generated/1",
    "model": "m",
    "images": [{"file": f"{i}.png", "prompt": "an x-ray", "seed": 0, "index": i} for i in range(2)],
}


def read_generated(folder: Path) -> None:
    """generated.json: the images that are read are those of its folder, each with its prompt."""
    found = read_inputs(str(folder / "real"), str(folder / "made"), None, "finding")
    holds(len(found.generated) == len(found.generated.captions), "an image has its prompt")
    for key in found.generated.keys:
        holds((folder / "made" / key).resolve().is_relative_to(folder / "made"), f"{key} lies in its folder")
    holds(found.generated.pixels.dtype == np.uint8, "8 bits")


def _generated(data: bytes) -> Files:
    image = IMAGES["PNG"][0]
    return {
        "made/generated.json": data, "made/0.png": image, "made/1.png": image, "real/a.png": image,
        "secret.png": image,
    }  # fmt: skip


def _kinds() -> list[Reader]:
    """A reader for each kind of image file."""
    return [
        Reader(kind, damaged(seeds).map(lambda data: {"image": data}), read_image, 60)
        for kind, seeds in IMAGES.items()
    ]


READERS = [
    *_kinds(),
    Reader("images cut short", _cut("image", "whole", [*chain(*IMAGES.values())]), read_cut_image, 60),
    Reader("images drawn", _drawn_images(), read_drawn_image),
    Reader("DICOM", damaged(DICOMS).map(lambda data: {"a.dcm": data}), read_dicom, 120),
    Reader("DICOM cut short", _cut("cut/a.dcm", "whole/a.dcm", DICOMS), read_cut_dicom),
    Reader("generated.json", odd_json(MADE).map(_generated), read_generated, 30),
]  # fmt: skip
