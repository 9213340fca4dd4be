"""Image files of every kind as one decoder reads them, and what it refuses."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from medsd_ray.data.sources.folder import scan
from medsd_ray.data.sources.image_files import open_image, open_mask
from medsd_ray.data.sources.jpeg import has_all_of_its_image, jpeg_size
from medsd_ray.data.sources.pixels import Levels
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import BadSample
from medsd_ray.errors import InputError
from medsd_ray.evaluation.inputs import decode, read_inputs, read_real

RAMP = np.add.outer(np.arange(48), np.arange(64)) * 2  # 0 to 220, no symmetry
TWELVE = (RAMP * 16).astype(np.uint16)


def stretched(values: np.ndarray) -> np.ndarray:
    """From the 0.5th percentile to the 99.5th, by numpy."""
    low, high = np.percentile(values, [0.5, 99.5])
    return ((values - low) / (high - low)).clip(0, 1) * 255


def file(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def tiff(values: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "order"),
    [(kind, order) for kind in ("uint8", "uint16", "float32") for order in "<>"] + [("uint32", "<")],
)
def test_a_tiff_whose_zero_is_white_is_turned(kind: str, order: Any):
    top = RAMP.max()
    white = tiff((top - RAMP).astype(kind), photometric="miniswhite", byteorder=order)
    black = tiff(RAMP.astype(kind), photometric="minisblack", byteorder=order)
    shown = open_image(white).astype(int)
    if kind == "uint8":  # taken as they are: 255 - (220 - x)
        assert (shown == RAMP + 255 - top).all() and (open_image(black) == RAMP).all()
    else:
        assert (
            np.abs(shown - open_image(black)).max() <= 1 and np.corrcoef(shown.flat, RAMP.flat)[0, 1] > 0.99
        )


@pytest.mark.parametrize("form", ["png", "tiff", "big-endian", "zlib", "tiles"])
@pytest.mark.parametrize("alpha", [False, True])
def test_twelve_bits_in_sixteen_of_colour_are_read_as_in_gray(form: str, alpha: bool):
    colours = np.stack([TWELVE, TWELVE[::-1], TWELVE // 2] + [np.full_like(TWELVE, 65535)] * alpha, -1)
    options = {"big-endian": {"byteorder": ">"}, "zlib": {"compression": "zlib"}, "tiles": {"tile": (16, 16)}}
    if form == "png":
        data = png16(colours)
    else:
        data = tiff(colours, photometric="rgb", extrasamples=[2] * alpha, **options.get(form, {}))
    assert np.abs(open_image(data) - stretched(colours[..., :3])).max() <= 1
    equal = np.repeat(TWELVE[..., None], 3, -1)
    gray = open_image(png16(equal))
    assert gray.ndim == 2 and np.abs(gray - stretched(TWELVE)).max() <= 1
    np.testing.assert_array_equal(gray, open_image(png16(TWELVE)))


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a sample, as PngImagePlugin's chunks make it; Pillow itself writes gray alone."""
    import struct
    import zlib

    height, width = values.shape[:2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2] if values.ndim == 3 else 1]
    rows = values.reshape(height, -1).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    buffer = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    buffer.seek(8)
    PngImagePlugin.putchunk(buffer, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    PngImagePlugin.putchunk(buffer, b"IDAT", zlib.compress(raw))
    PngImagePlugin.putchunk(buffer, b"IEND", b"")
    return buffer.getvalue()


def test_sixteen_bits_of_gray_with_alpha_lie_on_black():
    alpha = np.full_like(TWELVE, 65535)
    alpha[:, :20] = 0
    shown = open_image(png16(np.stack([TWELVE, alpha], -1)))
    visible = np.where(alpha > 0, TWELVE, 0)
    assert shown.ndim == 2 and np.abs(shown - stretched(visible)).max() <= 1


def test_sixteen_bits_of_colour_in_planes_are_refused():
    planes = np.stack([TWELVE] * 3)
    with pytest.raises(BadSample, match="separate planes"):
        open_image(tiff(planes, photometric="rgb", planarconfig="separate"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_all_verbs_turn_an_image_as_its_exif_says(tmp_path: Path, orientation: int, form: str):
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(RAMP.astype(np.uint8))
    data = file(image, form, exif=exif, **({"quality": 100} if form == "JPEG" else {}))
    turns = {1: lambda x: x, 2: np.fliplr, 3: lambda x: x[::-1, ::-1], 4: np.flipud, 5: np.transpose,
             6: lambda x: np.rot90(x, -1), 7: lambda x: x[::-1, ::-1].T, 8: np.rot90}  # fmt: skip
    expected = turns[orientation](RAMP)
    (tmp_path / f"a.{form.lower()}").write_bytes(data)
    if form != "TIFF":
        whole = read_real(str(tmp_path), "finding")["all"].pixels[0][..., 0].astype(int)
        assert np.abs(whole - expected).max() <= 2
    for shown in (open_image(data), decode(data, "here"), open_image(tmp_path / f"a.{form.lower()}")):
        assert np.abs(shown.astype(int) - expected).max() <= 2
    if form != "JPEG":
        mask = Image.fromarray((RAMP // 32).astype(np.uint8))
        (tmp_path / "mask").write_bytes(file(mask, form, exif=exif))
        labels = open_mask(tmp_path / "mask", turned=orientation)
        np.testing.assert_array_equal(labels, turns[orientation](RAMP // 32))


def test_an_image_of_one_value_is_said_of_what_is_compared(tmp_path: Path):
    for kind, values in {"real": (1, 2), "made": (3, 0)}.items():
        (tmp_path / kind).mkdir()
        for index, value in enumerate(values):
            pixels = RAMP if value != 0 else np.full_like(RAMP, 9)
            (tmp_path / kind / f"{index}.png").write_bytes(
                file(Image.fromarray(pixels.astype(np.uint8)), "PNG")
            )
    notes = read_inputs(str(tmp_path / "real"), str(tmp_path / "made"), None, "finding").notes
    assert notes == ["1 of 2 images are of one value, such as all black; 1.png is the first."]


def test_large_images_are_brought_to_size_as_they_come(tmp_path: Path):
    for kind, pixels in {"real": np.kron(RAMP, np.ones((4, 4))), "made": RAMP}.items():
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "0.png").write_bytes(file(Image.fromarray(pixels.astype(np.uint8)), "PNG"))
    inputs = read_inputs(str(tmp_path / "real"), str(tmp_path / "made"), None, "finding")
    assert np.abs(inputs.real["all"].pixels[0, ..., 0].astype(int) - RAMP).max() <= 2
    assert "256x192 were resized" in inputs.notes[0]


def test_all_verbs_put_what_is_transparent_on_black():
    half = np.stack([RAMP, np.full_like(RAMP, 128)], -1).astype(np.uint8)
    shown = decode(file(Image.fromarray(half, "LA"), "PNG"), "here")
    assert np.abs(shown.astype(int) - RAMP * 128 / 255).max() <= 1


@pytest.mark.parametrize(
    ("values", "clear", "bits"),
    [
        (RAMP.astype(np.uint8), 220, 8),
        (TWELVE, int(TWELVE.max()), 16),
        (RAMP > 100, 255, 1),
        (np.stack([RAMP.astype(np.uint8)] * 3, -1), (220, 220, 220), 8),
    ],
)
def test_a_gray_that_is_transparent_lies_on_black(values: np.ndarray, clear: Any, bits: int):
    """PNG names one of them where it has no alpha."""
    opaque = open_image(file(Image.fromarray(values), "PNG"))
    shown = open_image(file(Image.fromarray(values), "PNG", transparency=clear))
    there = RAMP > 100 if bits == 1 else RAMP.max() == RAMP
    assert (shown[there] == 0).all() and (opaque[there] >= 220).all()
    assert bits == 16 or (shown[~there] == opaque[~there]).all()


def test_a_file_of_several_pages_is_said(tmp_path: Path):
    pages = np.stack([RAMP.astype(np.uint8) // 4 * k for k in (1, 2, 3)])
    data = tiff(pages, photometric="minisblack")
    with pytest.raises(BadSample, match="holds 3 pages; say which to take with prepare's --frames first"):
        open_image(data)
    with pytest.raises(InputError, match=r"here: holds 3 pages"):
        decode(data, "here")
    np.testing.assert_array_equal(open_image(data, 2), pages[2])
    (tmp_path / "a.tif").write_bytes(data)
    (tmp_path / "metadata.csv").write_text("image,report,patient_id\na.tif,Clear.,p\n")
    taken = {}
    for frames in ("first", "middle", "all"):
        records = scan(SourceRequest(str(tmp_path), frames=frames)).records
        taken[frames] = [(r.name, r.patient, int(np.max(np.asarray(r.read().image)))) for r in records]
    each = [(f"a.tif#{k + 1}", "p", int(pages[k].max())) for k in range(3)]
    assert taken == {"first": each[:1], "middle": each[1:2], "all": each}
    moving = file(Image.fromarray(pages[0]), "PNG", save_all=True, append_images=[Image.fromarray(pages[1])])
    with pytest.raises(BadSample, match="holds 2 pages"):
        open_image(moving)


def test_a_smaller_copy_of_a_page_is_no_page():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(RAMP.astype(np.uint8), photometric="minisblack")
        writer.write(RAMP[::4, ::4].astype(np.uint8), photometric="minisblack", subfiletype=1)
    np.testing.assert_array_equal(open_image(buffer.getvalue()), RAMP)


NOISY = np.random.default_rng(0).integers(0, 255, (120, 200)).astype(np.uint8)
NOISY[70:] = 0  # its end is flat, as libjpeg's filling is


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"restart_marker_blocks": 7}, {"restart_marker_rows": 1}, {"subsampling": 0}],
)
@pytest.mark.parametrize("coloured", [False, True])
def test_a_jpeg_without_its_end_is_damaged(options: dict, coloured: bool):
    pixels = np.stack([NOISY, 255 - NOISY, NOISY // 2], -1) if coloured else NOISY
    data = file(Image.fromarray(pixels), "JPEG", **options)
    assert has_all_of_its_image(data) and jpeg_size(data) == (120, 200)
    open_image(data)
    for share in (0.4, 0.6, 0.9):
        cut = data[: int(len(data) * share)].rstrip(b"\xff") + b"\xff\xd9"
        with pytest.raises(BadSample, match="its end is missing"):
            open_image(cut)
    at = next(data.find(bytes([0xFF, m])) for m in (0xC0, 0xC2) if bytes([0xFF, m]) in data)
    taller = data[: at + 5] + (400).to_bytes(2, "big") + data[at + 7 :]
    with pytest.raises(BadSample, match="its end is missing"):
        open_image(taller)


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (8, 8), (17, 33)])
def test_small_jpegs_and_what_lies_behind_one(size: tuple[int, int]):
    data = file(Image.fromarray(NOISY[: size[0], : size[1]]), "JPEG")
    assert open_image(data).shape == size and open_image(data + b"\0" * 50 + data).shape == size


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(file(Image.fromarray(NOISY), "PNG"))
    (folder / "good.png").write_bytes(file(Image.fromarray(NOISY), "PNG"))
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "inside.png").symlink_to(folder / "good.png")
    names = ["good.png", "pipe.png", "zero.png", "loop.png", "out.png", "inside.png"]
    (folder / "metadata.csv").write_text(
        "image,report,patient_id\n" + "".join(f"{name},Clear.,p\n" for name in names)
    )
    found = scan(SourceRequest(str(folder)))
    assert [record.name for record in found.records] == ["good.png", "inside.png"]
    words = ["not a regular file", "leads out", "not the name of a file", "leads out"]
    for line, said, problem in zip(range(3, 7), words, found.problems, strict=True):
        assert problem.startswith(f"metadata.csv line {line}") and said in problem
    (folder / "metadata.csv").unlink()
    os.mkfifo(folder / "metadata.csv")
    with pytest.raises(InputError, match="not a regular file"):
        scan(SourceRequest(str(folder)))


def test_percentiles_of_levels_are_those_of_the_pixels():
    rng = np.random.default_rng(1)
    for values in (
        rng.normal(1000, 200, 999).astype(np.uint16),
        rng.normal(0, 300, 1000).astype(np.int16),
        rng.normal(0, 1e7, 1001).astype(np.int32),
        rng.normal(0, 1, 1000),
    ):
        ignored = rng.random(values.size) < 0.3
        for skipped, counted in ((None, values), (ignored, values[~ignored])):
            levels = Levels(values, skipped)
            for shown, expected in ((levels.values, counted), (-2 * levels.values, -2.0 * counted)):
                assert levels.percentiles(shown, 0.5, 99.5) == pytest.approx(
                    np.percentile(expected, [0.5, 99.5])
                )
