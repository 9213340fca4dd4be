"""A folder with metadata.csv: what is fine is taken, what is not has a line that names file and row."""

from __future__ import annotations

import csv
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsd_ray.data.sources.folder import scan
from medsd_ray.data.sources.pixels import open_image, resize, to_8bit
from medsd_ray.data.sources.source import BadSample
from medsd_ray.errors import InputError

HEADER = ["image", "patient_id", "finding", "report"]


def ramp(height: int, width: int) -> np.ndarray:
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


def table(folder: Path, *rows: list[str], header: list[str] = HEADER) -> Path:
    folder.mkdir(exist_ok=True)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return folder


def test_rows_become_records(tmp_path: Path):
    folder = table(
        tmp_path, ["a.png", "p1", "Effusion", "Große\n Lunge"], ["./b.png", "p2", "None", "two, with a comma"]
    )
    Image.fromarray(ramp(10, 20)).save(tmp_path / "a.png")
    Image.fromarray(ramp(10, 20)).save(tmp_path / "b.png")
    found = scan(str(folder), "patient_id")
    assert found.kind == "image" and found.problems == [] and found.notes == []
    assert [(r.name, r.patient, r.where) for r in found.records] == [
        ("a.png", "p1", "metadata.csv line 2: a.png"),
        ("b.png", "p2", "metadata.csv line 4: ./b.png"),
    ]
    content = found.records[0].read()
    assert content.image is not None
    assert (content.caption, content.labels, content.image.shape) == (
        "Große Lunge",
        {"finding": "Effusion"},
        (10, 20),
    )


def test_each_bad_row_has_its_line_and_the_rest_is_kept(tmp_path: Path):
    folder, outside = tmp_path / "in", tmp_path / "secret.png"
    folder.mkdir()
    for path in (outside, folder / "good.png"):
        Image.fromarray(ramp(8, 8)).save(path)
    (folder / "link.png").symlink_to(outside)
    cases = {
        "gone.png": "there is no such file",
        "../secret.png": "leads out of the folder",
        str(outside): "leads out of the folder",
        "link.png": "leads out of the folder",
        "nul\0.png": "",
        "x" * 300 + ".png": "not the name of a file",
    }
    rows = [[name, "p1", "f", "text"] for name in ["good.png", *cases]]
    more = [
        ["good.png", "p1", "f", "again"],
        ["a.png", "p1", "f", " "],
        ["a.png", "", "f", "text"],
        ["", "p", "f", "t"],
        ["a", "b"],
    ]
    found = scan(str(table(folder, *rows, *more)), "patient_id")
    assert [record.name for record in found.records] == ["good.png"]
    said = [
        "already on line 2",
        "the report is empty",
        "the patient_id is empty",
        "the image is empty",
        "2 cells under 4 columns",
    ]
    for line, words, problem in zip(range(3, 14), [*cases.values(), *said], found.problems, strict=True):
        assert problem.startswith(f"metadata.csv line {line}") and words in problem and "\n" not in problem


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images_that_cannot_be_read(tmp_path: Path):
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(whole)
    files = {
        "truncated.png": (whole.read_bytes()[:2000], "damaged"),
        "empty.png": (b"", "not an image"),
        "text.png": (b"this is a report, not an image", "not an image"),
        "bomb.png": (png_that_claims(60_000, 60_000), "pixels"),
        "large.png": (png_that_claims(12_000, 12_000), "pixels"),
        "lies.png": (png_that_claims(3_000, 3_000), "damaged"),
    }
    for name, (data, words) in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadSample, match=words) as caught:
            open_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert open_image(whole).shape == (64, 64)


def test_every_kind_of_pixel_becomes_8_bits(tmp_path: Path):
    gray = ramp(6, 256)
    twelve = np.tile(np.arange(256, dtype=np.uint16) * 16, (6, 1))  # 12 bits in 16: must not come out black
    images = {
        "gray.png": Image.fromarray(gray),
        "twelve.png": Image.fromarray(twelve),
        "rgb.png": Image.fromarray(np.stack([gray] * 3, -1)),
        "rgba.png": Image.fromarray(np.stack([gray] * 3 + [np.full_like(gray, 255)], -1)),
        "palette.png": Image.fromarray(gray).convert("P"),
        "float.tif": Image.fromarray(gray.astype(np.float32) / 7),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
        values = open_image(tmp_path / name)
        assert values.dtype == np.uint8 and values.shape == (6, 256), name
        assert np.abs(values.astype(int) - gray).max() <= 3, name
    Image.fromarray(np.stack([gray, gray, gray * 0], -1)).save(tmp_path / "color.png")
    assert open_image(tmp_path / "color.png").shape == (6, 256, 3)
    clear = np.stack([gray] * 3 + [np.zeros_like(gray)], -1)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert not open_image(tmp_path / "clear.png").any()


def test_values_that_are_all_equal_are_black():
    assert not to_8bit(np.full((4, 4), 1000, np.uint16)).any()
    with pytest.raises(BadSample, match="no numbers"):
        to_8bit(np.array([[np.nan, 1.0]]))


def test_resizing_keeps_the_aspect_and_smooths():
    wide = np.zeros((40, 120), np.uint8)
    wide[:, 40:80] = 200  # the middle square
    assert (resize(wide, 8)[:, 1:-1] > 195).all()  # its rim smooths into what is cropped
    assert resize(wide[:, :60], 40).shape == (40, 40) and resize(ramp(7, 9), 16).shape == (16, 16)
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.abs(resize(checks, 8).astype(int) - 127).max() < 25  # without antialiasing it would be 0 or 255
    assert resize(np.zeros((40, 20, 3), np.uint8), 8).shape == (8, 8, 3)


def test_columns_that_identify_are_no_labels(tmp_path: Path):
    header = [*HEADER, "age", "mrn", "StudyDate"]
    found = scan(
        str(table(tmp_path, ["a.png", "p1", "f", "text", "50", "4711", "2020"], header=header)), "mrn"
    )
    assert "patient_id, StudyDate" in found.notes[0]
    Image.fromarray(ramp(8, 8)).save(tmp_path / "a.png")
    (record,) = scan(str(tmp_path), "mrn").records
    assert record.patient == "4711" and record.read().labels == {"finding": "f", "age": "50"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"image,patient_id\n", "no column 'report' among image, patient_id"),
        (b"image,report\n", "no column 'patient_id' .* --split-by"),
        (b"", "no column 'image' among none"),
        (b"image,report,patient_id,report\n", "two columns named 'report'"),
        (b"image,report,patient_id\na.png,\xff\xfe,p\n", "not a CSV table in UTF-8"),
    ],
)
def test_a_table_that_is_none(tmp_path: Path, data: bytes, words: str):
    (tmp_path / "metadata.csv").write_bytes(data)
    with pytest.raises(InputError, match=words):
        scan(str(tmp_path), "patient_id")


def test_a_folder_that_is_none(tmp_path: Path):
    with pytest.raises(InputError, match="no such folder"):
        scan(str(tmp_path / "absent"), "patient_id")
    with pytest.raises(InputError, match=r"no metadata\.csv"):
        scan(str(tmp_path), "patient_id")
    with pytest.raises(InputError, match="local folder"):
        scan("s3://bucket/xrays", "patient_id")
