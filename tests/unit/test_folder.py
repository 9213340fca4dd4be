"""A folder with metadata.csv: what is fine is taken, what is not has a line that names file and row."""

from __future__ import annotations

import csv
import struct
import time
import unicodedata
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from medsd_ray.data.labels import HARMLESS
from medsd_ray.data.sources.folder import scan
from medsd_ray.data.sources.image_files import open_image
from medsd_ray.data.sources.pixels import resize, to_8bit
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import BadSample, Source
from medsd_ray.data.sources.table import read_table
from medsd_ray.errors import InputError

HEADER = ["image", "patient_id", "finding", "report"]
Form = Literal["NFC", "NFD"]


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
    found = scan(SourceRequest(str(folder)))
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
    found = scan(SourceRequest(str(table(folder, *rows, *more))))
    assert [record.name for record in found.records] == ["good.png"]
    said = [
        "already in metadata.csv line 2",
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
    folder = table(tmp_path, ["a.png", "p1", "f", "text", "50", "4711", "2020"], header=header)
    found = scan(SourceRequest(str(folder), patient_column="mrn"))
    assert "patient_id, StudyDate;" in found.notes[0]
    Image.fromarray(ramp(8, 8)).save(tmp_path / "a.png")
    (record,) = scan(SourceRequest(str(tmp_path), patient_column="mrn")).records
    assert record.patient == "4711" and record.read().labels == {"finding": "f", "age": "50"}


# Spellings of what identifies, in several languages; none of them is a label unless it is asked for.
IDENTIFYING = (
    *("PATIENTNAME", "patientname", "PatientName", "PATIENTID", "MRN", "StudyDate", "studydate", "timestamp"),
    *("DOB", "BIRTHDATE", "radiologist", "referrer", "subject", "initials", "Nachname", "Geburtsdatum"),
    *("AccessionNumber", "accno", "StudyInstanceUID", "e-mail", "nhs_number", "PatientAge", "postal_code"),
    *("city", "insurance_no", "site", "location", "url"),
)


def labelled(
    folder: Path, header: list[str], rows: list[list[str]], *asked: str, insisted: str = ""
) -> Source:
    """A table with a row for each of `rows`, of another patient each, and an image for each."""
    lines = [[f"{i}.png", f"p{i}", "A report", *row] for i, row in enumerate(rows)]
    table(folder, *lines, header=["image", "patient_id", "report", *header])
    for i in range(len(rows)):
        Image.fromarray(ramp(8, 8)).save(folder / f"{i}.png")
    return scan(SourceRequest(str(folder), label_columns=asked, yes_labels=(insisted,) if insisted else ()))


def labels(found: Source) -> list[dict]:
    return [dict(record.read().labels) for record in found.records]


def test_columns_become_labels_that_are_harmless_or_asked_for(tmp_path: Path):
    header = [*IDENTIFYING, *sorted(HARMLESS - {"sex", "age"}), "Sex", "AGE"]
    row = [*("x" for _ in header[:-2]), "F", "95"]
    found = labelled(tmp_path, header, [row])
    assert set(labels(found)[0]) == set(header) - set(IDENTIFYING) and labels(found)[0]["AGE"] == "90"
    assert all(name in found.notes[0] for name in IDENTIFYING) and len(found.notes) == 1
    found = labelled(tmp_path, header, [row], "site", "city")
    assert set(labels(found)[0]) == set(header) - set(IDENTIFYING) | {"site", "city"}
    with pytest.raises(InputError, match=r"no column 'Site' among .*; --label-column site$"):
        labelled(tmp_path, header, [row], "Site")
    with pytest.raises(InputError, match="--label-column patient_id: it is the --patient-column already"):
        labelled(tmp_path, header, [row], "patient_id")


@pytest.mark.parametrize(
    ("value", "sign"),
    [
        ("1950-03-12", "a date"),
        ("MRN 4711", "a record number"),
        ("Doe^Jane", "a name"),
        ("Jane Roe", "a name"),
    ],
)
def test_values_that_identify_are_no_labels_unless_insisted_on(tmp_path: Path, value: str, sign: str):
    rows = [["No Finding", "a"], [value, value]]
    found = labelled(tmp_path, ["finding", "site"], rows)
    assert labels(found) == [{}, {}]
    said = next(note for note in found.notes if "'finding'" in note)
    assert f"line 3: its value looks like {sign}" in said and value not in said and "--yes-label" in said
    with pytest.raises(
        InputError, match=f"line 3: its value looks like {sign}.*'site' is no label"
    ) as caught:
        labelled(tmp_path, ["finding", "site"], rows, "site")
    assert value not in str(caught.value)
    assert labels(labelled(tmp_path, ["finding", "site"], rows, insisted="site"))[1] == {"site": value}


def test_a_value_for_each_patient_is_no_class(tmp_path: Path):
    rows = [[f"Surname{chr(97 + i)}"] for i in range(12)]
    assert labels(labelled(tmp_path, ["finding"], rows[:5]))[0] == {"finding": "Surnamea"}
    found = labelled(tmp_path, ["finding"], rows)
    assert labels(found)[0] == {} and "value of their own" in found.notes[0]
    assert labels(labelled(tmp_path, ["age"], [[str(20 + i)] for i in range(12)]))[0] == {"age": "20"}


# A quote that is not closed swallows the rows after it: into the text of another image and patient.
OPEN_QUOTES = {
    "another quote": ('x2.png,"Heart is normal, 2.,P2', 'x{i}.png,"Heart is normal, {i}.",P{i}'),
    "no other": ('x2.png,"Heart is normal 2.,P2', "x{i}.png,Heart is normal {i}.,P{i}"),
    "whole rows": ('x2.png,"Heart is normal 2', 'x{i}.png,Heart is normal {i}",P{i}'),
    "closed early": ('x2.png,"Heart" is normal 2.,P2', "x{i}.png,Heart is normal {i}.,P{i}"),
}


@pytest.mark.parametrize("name", OPEN_QUOTES)
def test_a_quote_that_is_not_closed_is_refused_with_its_line(tmp_path: Path, name: str):
    broken, whole = OPEN_QUOTES[name]
    rows = [broken if i == 2 else whole.format(i=i) for i in range(6)]
    (tmp_path / "metadata.csv").write_text("\n".join(["image,report,patient_id", *rows, ""]))
    for i in range(6):
        Image.fromarray(ramp(8, 8)).save(tmp_path / f"x{i}.png")
    with pytest.raises(InputError, match=r"metadata\.csv line 4: a quote that is never closed") as caught:
        scan(SourceRequest(str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_quoted_texts_over_several_lines_are_read(tmp_path: Path):
    found = labelled(
        tmp_path,
        ["finding"],
        [
            [
                'Effusion, "left"\nand right.',
            ],
            ["None"],
        ],
    )
    assert labels(found)[0] == {"finding": 'Effusion, "left"\nand right.'} and len(found.records) == 2


def test_images_that_no_row_names_are_counted(tmp_path: Path):
    labelled(tmp_path, ["mask"], [["0-mask.png"], ["1-mask.png"]])
    (tmp_path / "sub").mkdir()
    for name in ("0-mask.png", "1-mask.png", "sub/more.JPG", "over.tif", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "link.png").symlink_to(tmp_path / "0.png")
    notes = scan(SourceRequest(str(tmp_path))).notes
    assert notes[-1] == "2 images are left out: metadata.csv has no row for them"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["{}/{}.png", "./{}/{}.png", "{}\\{}.png", "{}//{}.png"])
def test_names_of_files_are_compared_in_one_form(tmp_path: Path, form: Form, written: str):
    other: Form = "NFD" if form == "NFC" else "NFC"
    folder, stem = (unicodedata.normalize(form, name) for name in ("Müller", "Thorax-é"))
    (tmp_path / folder).mkdir()
    Image.fromarray(ramp(8, 8)).save(tmp_path / folder / f"{stem}.png")
    name = written.format(*(unicodedata.normalize(other, one) for one in (folder, stem)))
    found = scan(SourceRequest(str(table(tmp_path, [name, "p", "f", "text"]))))
    assert found.problems == [] and found.notes == []
    (record,) = found.records
    assert record.name == unicodedata.normalize("NFC", f"{folder}/{stem}.png")
    image = record.read().image
    assert image is not None and image.shape == (8, 8)


def test_a_patient_is_one_in_any_form_of_letters(tmp_path: Path):
    for name in ("a.png", "b.png"):
        Image.fromarray(ramp(8, 8)).save(tmp_path / name)
    rows = [["a.png", "Jos\u00e9", "f", "t"], ["b.png", "Jose\u0301", "f", "t"]]
    assert len({record.patient for record in scan(SourceRequest(str(table(tmp_path, *rows)))).records}) == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"image,patient_id\n", "no column 'report' among image, patient_id"),
        (b"image,report\n", "no column 'patient_id' .* --patient-column COLUMN for the patient, or"),
        (b"", "no columns 'image', 'report', 'patient_id' among none"),
        (b"image,report,patient_id,report\n", "two columns named 'report'"),
        (b"image,report,patient_id\na.png,\xff\xfe,p\n", "not a CSV table in UTF-8"),
    ],
)
def test_a_table_that_is_none(tmp_path: Path, data: bytes, words: str):
    (tmp_path / "metadata.csv").write_bytes(data)
    with pytest.raises(InputError, match=words):
        scan(SourceRequest(str(tmp_path)))


def test_a_folder_that_is_none(tmp_path: Path):
    with pytest.raises(InputError, match="no such folder"):
        scan(SourceRequest(str(tmp_path / "absent")))
    with pytest.raises(InputError, match=r"no metadata\.csv"):
        scan(SourceRequest(str(tmp_path)))
    with pytest.raises(InputError, match="local folder"):
        scan(SourceRequest("s3://bucket/xrays"))


def test_a_table_of_very_many_columns_is_refused_at_once(tmp_path: Path):
    (tmp_path / "metadata.csv").write_text("image,report,patient_id" + ",age" * 200_000 + "\n")
    began = time.monotonic()
    with pytest.raises(InputError, match="200003 columns; 10000 at most"):
        read_table(tmp_path / "metadata.csv", tmp_path)
    assert time.monotonic() - began < 2
