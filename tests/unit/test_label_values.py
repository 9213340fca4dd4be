"""Masks keep the numbers that their files store, whatever decoders make of them to look right."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from medsd_ray.data.sources.image_files import open_image, open_mask
from medsd_ray.data.sources.source import BadSample

CLASSES = np.array([[0, 1, 2, 3, 0], [3, 2, 1, 0, 3]], np.uint8)


def packed(values: np.ndarray, bits: int) -> list[bytes]:
    """Each row's values in as few bits, filled up to whole bytes."""
    rows = ["".join(f"{value:0{bits}b}" for value in row) for row in values.tolist()]
    return [bytes(int(row[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(row), 8)) for row in rows]


def png(values: np.ndarray, bits: int, colour: int = 0, clear: bytes = b"") -> bytes:
    """A PNG as its specification has it (ISO/IEC 15948): grayscale, or `colour` 2 for RGB, and transparent
    where it has the value `clear`.
    """
    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in packed(values.reshape(height, -1), bits)))
    chunks = [(b"IHDR", header), *([(b"tRNS", clear)] if clear else []), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def tiff(data: bytes, bits: int, width: int, height: int, photometric: int = 1) -> bytes:
    """A TIFF of one strip of gray (TIFF 6.0, p. 13 to 22)."""
    fields = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 134, 277: 1, 278: height}
    fields |= {279: len(data), 282: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items())
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + b"\0" * 4 + data


def bmp(rows: list[bytes], bits: int, width: int, shades: list[int]) -> bytes:
    """A BMP with a palette of grays."""
    palette = b"".join(bytes([shade, shade, shade, 0]) for shade in shades)
    data = b"".join(row.ljust(-(-len(row) // 4) * 4, b"\0") for row in reversed(rows))
    sizes = struct.pack("<IiiHHIIiiII", 40, width, len(rows), 1, bits, 0, len(data), 0, 0, len(shades), 0)
    start = 14 + len(sizes) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + sizes + palette + data


def written(values: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def saved(image: Image.Image, form: str = "PNG", **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **more)
    return buffer.getvalue()


def pillow(values: np.ndarray, form: str, **options: Any) -> bytes:
    return saved(Image.fromarray(values), form, **options)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("form", ["png", "tiff"])
def test_grays_of_few_bits_are_the_classes_that_they_store(tmp_path: Path, form: str, bits: int):
    rows = packed(CLASSES, bits)
    data = png(CLASSES, bits) if form == "png" else tiff(b"".join(rows), bits, 5, 2)
    (tmp_path / "mask").write_bytes(data)
    np.testing.assert_array_equal(open_mask(tmp_path / "mask"), CLASSES)
    if bits < 8:  # as an image they are shades still
        np.testing.assert_array_equal(open_image(data), CLASSES * (255 // (2**bits - 1)))


@pytest.mark.parametrize("form", ["png", "tiff"])
def test_one_bit_is_black_and_white(tmp_path: Path, form: str):
    two = CLASSES % 2
    data = png(two, 1) if form == "png" else tiff(b"".join(packed(two, 1)), 1, 5, 2)
    (tmp_path / "mask").write_bytes(data)
    np.testing.assert_array_equal(open_mask(tmp_path / "mask"), two * 255)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_few_bits_are_numbers(tmp_path: Path, bits: int):
    image = Image.fromarray(CLASSES & (2**bits - 1)).convert("P")
    image.putdata((CLASSES & (2**bits - 1)).reshape(-1).tolist())
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200][: 3 * 2 ** min(bits, 2)])
    image.save(tmp_path / "mask.png", bits=bits)
    np.testing.assert_array_equal(open_mask(tmp_path / "mask.png"), CLASSES & (2**bits - 1))


def test_what_is_transparent_of_few_bits_or_many_lies_on_black(tmp_path: Path):
    data = png(CLASSES, 2, clear=struct.pack(">H", 2))
    np.testing.assert_array_equal(open_image(data), np.array([0, 85, 0, 255])[CLASSES])
    (tmp_path / "mask").write_bytes(data)
    np.testing.assert_array_equal(open_mask(tmp_path / "mask"), CLASSES)
    deep = np.repeat(np.array([[[100], [101], [200], [300]]]), 3, -1)
    shown = open_image(png(deep, 16, 2, clear=struct.pack(">HHH", 300, 300, 300)))
    np.testing.assert_array_equal(shown, open_image(png(deep % 300, 16, 2)))


DEEP = np.repeat(CLASSES[..., None].astype(np.uint16), 3, -1)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (png(DEEP, 16, 2), "colours of 16 bits, of which classes are not read; save it in gray"),
        (written(DEEP, photometric="rgb"), "colours of 16 bits"),
        (written(CLASSES, photometric="miniswhite"), "a TIFF whose zero is white"),
        (written(CLASSES.astype(np.uint16), photometric="miniswhite"), "a TIFF whose zero is white"),
        (tiff(b"".join(packed(CLASSES, 2)), 2, 5, 2, photometric=0), "a TIFF whose zero is white"),
        (written(CLASSES.astype(np.int8), photometric="minisblack"), "values of 8 bits with a sign"),
        (pillow(np.kron(CLASSES * 80, np.ones((8, 8), np.uint8)), "JPEG"), "compressed as JPEG"),
        (pillow(np.kron(CLASSES * 80, np.ones((8, 8), np.uint8)), "TIFF", compression="jpeg"), "as JPEG"),
        (bmp(packed(CLASSES, 4), 4, 5, list(range(16))), "a BMP of 4 bits with few grays"),
        (bmp(packed(CLASSES % 2, 8), 8, 5, [0, 255]), "a BMP of 8 bits with few grays"),
        (written(np.array([[0, 1, np.nan]], np.float32)), "labels that are no whole numbers"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_values_that_decoders_change_are_refused(tmp_path: Path, data: bytes, words: str):
    (tmp_path / "mask").write_bytes(data)
    with pytest.raises(BadSample, match=words):
        open_mask(tmp_path / "mask")


@pytest.mark.parametrize(
    ("bits", "shades", "shown"),
    [(8, list(range(256)), [0, 1, 2, 3]), (1, [0, 255], [0, 255]), (4, [0, 90, 40, 255], [0, 90, 40, 255])],
)
def test_bitmaps_of_grays(bits: int, shades: list[int], shown: list[int]):
    values = CLASSES & (2**bits - 1)
    image = open_image(bmp(packed(values, bits), bits, 5, shades))
    np.testing.assert_array_equal(image, np.array(shown)[values])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bmp(packed(CLASSES, 4), 4, 5, list(range(16))), "a BMP of 4 bits with few grays"),
        (bmp(packed(CLASSES % 2, 8), 8, 5, [0, 255]), "a BMP of 8 bits with few grays"),
        (written(CLASSES.astype(np.int8), photometric="minisblack"), "values of 8 bits with a sign"),
        (written(np.zeros((4, 4, 4), np.uint16), photometric="separated"), "CMYK of 16 bits"),
    ],
)
def test_images_that_pillow_mistakes_are_refused(data: bytes, words: str):
    with pytest.raises(BadSample, match=words):
        open_image(data)


def test_the_upper_half_of_thirty_two_bits_is_bright():
    values = np.linspace(0, 2**32 - 1, 256).astype(np.uint32).reshape(16, 16)
    shown = open_image(written(values, photometric="minisblack"))
    assert (np.diff(shown.reshape(-1).astype(int)) >= 0).all() and shown[0, 0] == 0 and shown[-1, -1] == 255


def test_colours_of_sixteen_bits_that_alpha_was_multiplied_into():
    """TIFF 6.0, p. 31: associated alpha, so that the values are those on black."""
    colours = (np.arange(256).reshape(16, 16, 1) * np.array([16, 8, 4])).astype(np.uint16)
    alpha = np.full((16, 16, 1), 2**15, np.uint16)
    both = written(np.concatenate([colours, alpha], -1), photometric="rgb", extrasamples=["assocalpha"])
    np.testing.assert_array_equal(open_image(both), open_image(written(colours, photometric="rgb")))


def test_masks_with_smoothed_edges_are_refused(tmp_path: Path):
    Image.fromarray(CLASSES // 2 * 255).resize((320, 160), Image.Resampling.BICUBIC).save(tmp_path / "m.png")
    with pytest.raises(BadSample, match="values, as an image or smoothed edges have"):
        open_mask(tmp_path / "m.png")


def test_many_classes_are_no_smoothed_edges(tmp_path: Path):
    """FreeSurfer's numbers go to 255, which is the least of its structures."""
    labels = np.repeat(np.array([[0, *range(2, 80), 251, 252, 253, 254]], np.uint8), 4, axis=0)
    labels[0, 0] = 255
    Image.fromarray(labels).save(tmp_path / "m.png")
    assert (open_mask(tmp_path / "m.png") == labels).all()


@pytest.mark.parametrize(
    ("palette", "expected"),
    [
        ([255, 255, 255, 0, 0, 0], [255, 0]),  # white first: its numbers would turn the mask inside out
        ([0, 0, 0, 255, 255, 255], [0, 1]),
        ([0, 0, 0, 128, 0, 0], [0, 1]),
        ([255, 255, 255, 128, 0, 0], [0, 1]),
    ],
)
def test_palettes_of_shades_and_of_classes(tmp_path: Path, palette: list[int], expected: list[int]):
    image = Image.frombytes("P", (2, 1), b"\0\1")
    image.putpalette(palette)
    image.save(tmp_path / "m.png")
    assert open_mask(tmp_path / "m.png").tolist() == [expected]


def spot(value: int = 255) -> np.ndarray:
    values = np.zeros((16, 32), np.uint8)
    values[4:12, 16:24] = value
    return values


def palette() -> Image.Image:
    image = Image.fromarray(spot(2)).convert("P")
    image.putdata(spot(2).reshape(-1).tolist())
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    return image


@pytest.mark.parametrize(
    ("image", "inside"),
    [
        (Image.fromarray(spot()), 255),
        (Image.fromarray(spot() > 0), 255),
        (Image.fromarray(spot(4)), 4),
        (palette(), 2),
        (Image.fromarray(np.stack([spot()] * 3, -1)), 255),
        (Image.fromarray(spot().astype(np.uint16) * 257), 255),
        (Image.fromarray(spot(5).astype(np.uint16)), 5),
    ],
)
def test_labels_stay_as_they_are(tmp_path: Path, image: Image.Image, inside: int):
    (tmp_path / "mask.png").write_bytes(saved(image))
    mask = open_mask(tmp_path / "mask.png")
    np.testing.assert_array_equal(mask, spot(inside))
    assert mask.dtype == np.uint8


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (saved(Image.fromarray(np.stack([spot(), spot() // 2, spot()], -1))), "coloured"),
        (saved(Image.fromarray(np.stack([spot(), spot(), spot(), spot()], -1))), "transparent"),
        (saved(Image.fromarray(spot()), "JPEG"), "compressed as JPEG or WebP, which change"),
        (saved(Image.fromarray(spot().astype(np.uint16) * 2)), "no whole numbers from 0 to 255"),
        (saved(Image.fromarray(spot().astype(np.float32) / 2), "TIFF"), "no whole numbers from 0 to 255"),
        (
            saved(Image.fromarray(spot()), "TIFF", save_all=True, append_images=[palette()]),
            "2 pages where its",
        ),
    ],
)
def test_values_that_are_no_labels_are_refused(tmp_path: Path, data: bytes, words: str):
    (tmp_path / "mask.png").write_bytes(data)
    with pytest.raises(BadSample, match=words):
        open_mask(tmp_path / "mask.png")
