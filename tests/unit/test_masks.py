"""Masks, boxes and domains: from a table to shards, through the same geometry as the image."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medsd_ray.data.latents import LatentNote, LatentReader, read_notes, to_bytes
from medsd_ray.data.prepare import prepare
from medsd_ray.data.pseudonyms import KEY_VARIABLE
from medsd_ray.data.shards import (
    FORMAT,
    SPLITS,
    Sample,
    iter_samples,
    list_splits,
    read_index,
    read_shard,
)
from medsd_ray.data.sources.folder import scan
from medsd_ray.data.sources.image_files import ORIENTATION
from medsd_ray.data.sources.masks import Box, drawn, mask_name
from medsd_ray.data.sources.pixels import resize
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import BadSample
from medsd_ray.data.split_writer import LOST_CLASS
from medsd_ray.errors import InputError
from medsd_ray.storage import open_storage

ROWS = 10


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "a key for this test")


def bars(value: int = 255) -> np.ndarray:
    """16 high and 32 wide, with a square of 8 whose upper left corner is 4 down and 16 to the right."""
    image = np.zeros((16, 32), np.uint8)
    image[4:12, 16:24] = value
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images that are their own masks, and a second mask of classes for all but the first."""
    source = tmp_path / "in"
    source.mkdir()
    lines = []
    for i in range(ROWS):
        Image.fromarray(bars()).save(source / f"{i}.png")
        Image.fromarray(bars()).save(source / f"{i}-lung.png")
        Image.fromarray(bars(3)).save(source / f"{i}-class.png")
        lines.append(
            [f"{i}.png", f"p{i}", "A square.", f"{i}-lung.png", f"{i}-class.png" if i else "", "AB"[i % 2]]
        )
    with (source / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "patient_id", "report", "Lung Mask", "kinds", "site"], *lines])
    return source


def prepared(folder: Path, out: Path, fit: Any = "crop", skip_bad: str = "0", **asked: Any) -> list[Sample]:
    asked = {"mask_columns": ("Lung Mask", "kinds"), "domain_column": "site", "size": 16, **asked}
    prepare(SourceRequest(str(folder), **asked), str(out), fit=fit, skip_bad=skip_bad)
    return [sample for split in list_splits(str(out)) for sample in iter_samples(str(out), split)]


# Where the square is: cropped, 8 columns go at either side; padded, all is half as large and has borders.
@pytest.mark.parametrize(("fit", "rows", "columns"), [("crop", (4, 12), (8, 16)), ("pad", (6, 10), (8, 12))])
def test_masks_follow_their_image(folder: Path, tmp_path: Path, fit: str, rows: tuple, columns: tuple):
    samples = prepared(folder, tmp_path / "out", fit)
    assert len(samples) == ROWS
    where = np.zeros((16, 16), bool)
    where[slice(*rows), slice(*columns)] = True
    for sample in samples:
        assert sample.image is not None and sample.masks["lung_mask"].dtype == np.uint8
        np.testing.assert_array_equal(sample.masks["lung_mask"], where * 255)
        np.testing.assert_array_equal(sample.image > 127, where)
        if "kinds" in sample.masks:
            np.testing.assert_array_equal(sample.masks["kinds"], where * 3)
    assert sum("kinds" in sample.masks for sample in samples) == ROWS - 1
    root = json.loads((tmp_path / "out/index.json").read_text())
    train = json.loads((tmp_path / "out/train/index.json").read_text())
    assert (root["format"], train["format"], train["fit"]) == (FORMAT, FORMAT, fit)
    assert sum(split["masks"]["lung_mask"] for split in root["splits"].values()) == ROWS
    assert ("--fit pad" in root["command"]) == (root["plan"].get("fit") == "pad") == (fit == "pad")
    assert "--mask-column 'Lung Mask' --mask-column kinds" in root["command"]
    other = "pad" if fit == "crop" else "crop"
    with pytest.raises(InputError, match="differ in fit"):
        prepared(folder, tmp_path / "out", other)


def test_classes_that_the_fit_cuts_off_are_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    edge = bars(3)
    edge[:, :2] = 5
    Image.fromarray(edge).save(folder / "4-class.png")
    prepared(folder, tmp_path / "crop")
    assert f"4.png: {LOST_CLASS}" in capsys.readouterr().err
    prepared(folder, tmp_path / "pad", "pad")
    assert LOST_CLASS not in capsys.readouterr().err
    crop, pad = (json.loads((tmp_path / out / "index.json").read_text()) for out in ("crop", "pad"))
    assert (crop["warnings"], pad["warnings"]) == ({LOST_CLASS: 1}, {})


def test_a_high_image_is_padded_at_its_sides():
    image = np.full((40, 20, 3), 200, np.uint8)
    padded = resize(image, 20, "pad")
    assert padded.shape == (20, 20, 3) and (padded[:, 5:15] == 200).all()
    assert not padded[:, :5].any() and not padded[:, 15:].any()
    odd = resize(np.full((30, 17), 7, np.uint8), 16, "pad", labels=True)
    assert odd.shape == (16, 16) and set(np.unique(odd)) == {0, 7}


def test_domains_stand_in_shards_and_indexes(folder: Path, tmp_path: Path):
    samples = prepared(folder, tmp_path / "out")
    assert sorted(sample.domain or "" for sample in samples) == ["A"] * 5 + ["B"] * 5
    assert all("site" not in sample.labels for sample in samples)
    root = json.loads((tmp_path / "out/index.json").read_text())
    assert sum(split["domains"].get("A", 0) for split in root["splits"].values()) == 5
    assert "--domain-column site" in root["command"]
    train = read_index(str(tmp_path / "out"))
    assert [shard.domain for shard in train.shards] == ["A", "B"]  # one alone in each, though all would fit
    held = [[s.domain for s in read_shard(open_storage(tmp_path / "out/train"), s)] for s in train.shards]
    assert [set(domains) for domains in held] == [{"A"}, {"B"}]
    samples = prepared(folder, tmp_path / "both", label_columns=("site",))
    assert all(sample.labels["site"] == sample.domain for sample in samples)
    samples = prepared(folder, tmp_path / "none", domain_column=None)
    assert all(sample.domain is None for sample in samples)
    shards = json.loads((tmp_path / "none/train/index.json").read_text())["shards"]
    assert [sorted(shard) for shard in shards] == [["bytes", "name", "samples", "sha256"]]


def test_a_domain_that_tells_who_the_patient_is_is_refused(folder: Path):
    table = folder / "metadata.csv"
    table.write_bytes(table.read_bytes().replace(b",A\r", b",12.03.1950\r"))
    said = r"line 2: its value looks like a date: --domain-column 'site'.*--yes-label"
    with pytest.raises(InputError, match=said) as caught:
        scan(SourceRequest(str(folder), domain_column="site"))
    assert "1950" not in str(caught.value)
    found = scan(SourceRequest(str(folder), domain_column="site", yes_labels=("site",)))
    assert found.records[0].domain == "12.03.1950"


def test_a_mask_that_cannot_be_used_makes_its_sample_bad(folder: Path, tmp_path: Path):
    (folder / "0-lung.png").unlink()
    (folder / "1-lung.png").write_bytes(b"no image")
    Image.fromarray(bars()[:8]).save(folder / "2-lung.png")
    os.mkfifo(tmp_path / "pipe")
    (folder / "3-lung.png").unlink()
    (folder / "3-lung.png").symlink_to(tmp_path / "pipe")
    found = scan(SourceRequest(str(folder), mask_columns=("Lung Mask",)))
    first, second = found.problems
    assert (
        first == "metadata.csv line 2: 0.png: mask 0-lung.png: there is no such file; add it or drop the row"
    )
    assert second.startswith("metadata.csv line 5: 3.png: mask 3-lung.png: leads out of the folder")
    with pytest.raises(InputError, match="4 samples could not be used"):
        prepared(folder, tmp_path / "out")
    samples = prepared(folder, tmp_path / "allowed", skip_bad="4")
    assert len(samples) == ROWS - 4
    (record,) = [one for one in found.records if one.name == "1.png"]
    with pytest.raises(BadSample, match="mask lung_mask: not an image that can be read"):
        record.read()


def test_masks_of_another_size_are_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    Image.fromarray(bars()[:8]).save(folder / "2-lung.png")
    Image.fromarray(bars()[:, :8]).save(folder / "3-class.png")
    with pytest.raises(InputError, match="2 samples could not be used"):
        prepared(folder, tmp_path / "out")
    said = capsys.readouterr().err
    assert "2.png: mask lung_mask: 32x8 pixels where its image has 32x16" in said
    assert "3.png: mask kinds: 8x16 pixels where its image has 32x16" in said


def test_names_of_masks():
    assert mask_name("Lung Mask (left)") == "lung_mask_left" and mask_name("Übel/Größe") == "ubel_groe"
    with pytest.raises(InputError, match="no letter that could name a mask"):
        mask_name("肺")


def test_two_masks_of_one_name_are_refused(folder: Path, tmp_path: Path):
    table = folder / "twice.csv"
    table.write_text((folder / "metadata.csv").read_text().replace("Lung Mask", "Kinds"))
    said = "the column 'kinds' and the column 'Kinds' would both be the mask 'kinds'; rename one"
    with pytest.raises(InputError, match=said):
        scan(SourceRequest(str(table), mask_columns=("kinds", "Kinds")))
    (tmp_path / "boxes.csv").write_text("image,finding,x,y,w,h\n0.png,Kinds,1,1,2,2\n")
    said = "the column 'kinds' and the finding 'Kinds' of boxes.csv would both be the mask 'kinds'"
    with pytest.raises(InputError, match=said):
        scan(SourceRequest(str(folder), mask_columns=("kinds",), boxes=str(tmp_path / "boxes.csv")))
    said = r"no columns 'mask', 'hospital' among .*--mask-column .*--domain-column COLUMN"
    with pytest.raises(InputError, match=said):
        scan(SourceRequest(str(folder), mask_columns=("mask",), domain_column="hospital"))


def test_boxes_are_drawn_as_masks(folder: Path, tmp_path: Path):
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(
        "image,patient_id,finding,x,y,w,h\n"
        "0.png,p0,Large Heart,16,4,8,8\n"
        "0.png,p0,Large Heart,8.4,0,2,2.4\n"
        "0.png,p0,Nodule,30.2,15.1,2.8,1.4\n"
        "./1.png,p1,Nodule,16,4,0.2,0.2\n"
        "gone.png,p9,Nodule,1,1,2,2\n"
    )
    found = scan(SourceRequest(str(folder), boxes=str(boxes)))
    assert "boxes.csv: boxes of 1 images are left out: no row that is taken names them" in found.notes
    contents = {record.name: record.read() for record in found.records}
    assert sorted(contents["0.png"].masks) == ["large_heart", "nodule"] and not contents["2.png"].masks
    heart = bars()
    heart[0:2, 8:10] = 255
    np.testing.assert_array_equal(contents["0.png"].masks["large_heart"], heart)
    assert np.argwhere(contents["0.png"].masks["nodule"]).tolist() == [[15, 30], [15, 31]]
    assert np.argwhere(contents["1.png"].masks["nodule"]).tolist() == [[4, 16]]
    samples = prepared(folder, tmp_path / "out", mask_columns=(), boxes=str(boxes))
    (cropped,) = [sample for sample in samples if "large_heart" in sample.masks]
    assert np.argwhere(cropped.masks["large_heart"]).min(0).tolist() == [0, 0]
    assert cropped.masks["large_heart"][4:12, 8:16].all()
    root = json.loads((tmp_path / "out/index.json").read_text())
    assert str(tmp_path) not in json.dumps(root)
    boxes.write_text(boxes.read_text().replace("16,4,8,8", "16,4,9,8"))
    with pytest.raises(InputError, match="differ in the source"):
        prepared(folder, tmp_path / "out", mask_columns=(), boxes=str(boxes))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"there is no such table; mend it"),
        ("image,finding,x,y,w,h\n", "none of its 0 images is one that the table of images names"),
        ("image,finding,x,y,w,h\n0,Nodule,1,1,2,2\n", "none of its 1 images, such as '0', is one that the"),
        ("image,finding,x,y,W,height\n", r"no column w \(maybe 'W'\), h among image"),
        (
            "image,finding,x,y,w,h\n0.png,Nodule,1,1,0,2\n",
            "line 2: x, y, w and h are pixels, w and h above 0",
        ),
        ("image,finding,x,y,w,h\n0.png,Nodule,1,one,2,2\n", "line 2: x, y, w and h are pixels"),
        ("image,finding,x,y,w,h\n0.png,Nodule,1,inf,2,2\n", "line 2: x, y, w and h are pixels"),
        ("image,finding,x,y,w,h\n0.png,Jane Roe,1,1,2,2\n", "line 2: its finding looks like a name"),
        ("image,finding,x,y,w,h\n0.png,Nodule,1,1\n", "line 2: 4 cells under 6 columns"),
    ],
)
def test_boxes_that_are_none(folder: Path, tmp_path: Path, text: str, words: str):
    if text:
        (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(InputError, match=f"--boxes .*{words}") as caught:
        scan(SourceRequest(str(folder), boxes=str(tmp_path / "boxes.csv")))
    assert "Roe" not in str(caught.value)


def test_findings_whose_masks_would_have_one_name_are_refused(folder: Path, tmp_path: Path):
    boxes = tmp_path / "boxes.csv"
    for one, other in (("Infiltrate", "infiltrate"), ("a/b", "a b"), ("Ödem", "Odem"), ("x" * 65, "x" * 66)):
        boxes.write_text(f"image,finding,x,y,w,h\n0.png,{one},1,1,2,2\n1.png,{other},1,1,2,2\n")
        said = f"boxes.csv: boxes.csv line 3: the findings '{one}' and '{other}' would both be the mask"
        with pytest.raises(InputError, match=said):
            scan(SourceRequest(str(folder), boxes=str(boxes)))
    boxes.write_text("image,finding,x,y,w,h\n0.png,Infiltrate,1,1,2,2\n1.png,Infiltrate ,1,1,2,2\n")
    found = scan(SourceRequest(str(folder), boxes=str(boxes)))  # a cell's edges do not count
    assert [[*record.read().masks] for record in found.records[:3]] == [["infiltrate"], ["infiltrate"], []]


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ("300,40,20,20", "lies outside of its 32x16 pixels; give boxes in pixels of these files"),
        ("-9,4,9,4", "lies outside"),
        ("32,0,1,1", "lies outside"),
        ("4,-3,4,3", "lies outside"),
        ("30,4,4,4", "reaches 2 pixels out of its 32x16 pixels"),
        ("-1.01,4,6,4", "reaches 2 pixels out"),
        ("4,4,4,13.5", "reaches 2 pixels out"),
        ("1e308,1,1e308,1", "w and h above 0"),
    ],
)
def test_a_box_that_is_not_of_its_image_makes_a_bad_sample(folder: Path, tmp_path: Path, box: str, said: str):
    (tmp_path / "boxes.csv").write_text(f"image,finding,x,y,w,h\n1.png,Nodule,1,1,2,2\n0.png,Nodule,{box}\n")
    with pytest.raises((BadSample, InputError), match=f"boxes.csv line 3.* {said}"):
        found = scan(SourceRequest(str(folder), boxes=str(tmp_path / "boxes.csv")))
        found.records[1].read()
        found.records[0].read()


def test_boxes_to_the_edge_are_kept():
    """NIH's are floats; one may be rounded to a pixel beyond, and of 1000 pixels to ten."""
    for box, rows, columns in (
        ((-1, -0.4, 3, 2.4), slice(0, 2), slice(0, 2)),
        ((31.7, 15.6, 1, 1), slice(15, 16), slice(31, 32)),
        ((0, 0, 32.9, 16.9), slice(0, 16), slice(0, 32)),
    ):
        expected = np.zeros((16, 32), np.uint8)
        expected[rows, columns] = 255
        np.testing.assert_array_equal(drawn([Box(*box, "row")], 16, 32), expected)
    assert drawn([Box(990, 0, 20, 5, "row")], 10, 1000)[:5, 990:].all()
    with pytest.raises(BadSample, match="its box, row, reaches 11 pixels out of its 1000x10 pixels"):
        drawn([Box(990, 0, 20.5, 5, "row")], 10, 1000)


def test_latents_keep_labels_domains_and_masks(tmp_path: Path):
    notes = [
        LatentNote({"finding": "x"}, "A", {"lungs": bars(), "kinds": bars(3)}),
        LatentNote({}, None, {}),
        LatentNote({"age": 5}, "B", {"lungs": bars()[:, ::-1]}),
    ]
    tensors = {"mean": torch.randn(3, 4, 2, 2), "logvar": torch.randn(3, 4, 2, 2)}
    path = tmp_path / "shard.safetensors"
    path.write_bytes(to_bytes(tensors, ["a", "b", "c"], ["x", "y", "z"], notes))
    read = read_notes(path)
    for one, other in zip(notes, read, strict=True):
        assert (one.labels, one.domain, one.masks.keys()) == (other.labels, other.domain, other.masks.keys())
        for name, mask in one.masks.items():
            np.testing.assert_array_equal(other.masks[name], mask)
    row = LatentReader().row(path, 2)
    assert set(row) == {"mean", "logvar"} and torch.equal(row["mean"], tensors["mean"][2])


def test_notes_that_do_not_fit_their_rows_are_refused(tmp_path: Path):
    tensors = {"mean": torch.randn(2, 4, 2, 2), "logvar": torch.randn(2, 4, 2, 2)}
    path = tmp_path / "shard.safetensors"
    for notes in ([LatentNote({}, None, {})], [LatentNote({"a": ["b"]}, None, {})] * 2):  # pyright: ignore
        path.write_bytes(to_bytes(tensors, ["a", "b"], ["x", "y"], notes))
        with pytest.raises(InputError, match="not a latent shard with notes"):
            read_notes(path)
    good = to_bytes(tensors, ["a", "b"], ["x", "y"], [LatentNote({}, None, {"m": bars()})] * 2)
    for damage in (
        lambda b: b.replace(b"mask_ends.m", b"mask_ends.n"),
        lambda b: b.replace(b"IHDR", b"IHDX"),
    ):
        path.write_bytes(damage(good))
        with pytest.raises(InputError, match="not a latent shard with notes"):
            read_notes(path)


def test_nothing_of_names_gets_into_shards(folder: Path, tmp_path: Path):
    prepared(folder, tmp_path / "out")
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"-lung.png" not in everything and b'"p1"' not in everything and len(SPLITS) == 3


def test_a_mask_or_box_that_is_not_turned_as_its_image_is_refused(tmp_path: Path):
    """A square image turned by its EXIF: no size tells that the mask lies elsewhere."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    square = np.zeros((32, 32), np.uint8)
    square[2:10, 2:10] = 255
    rows, boxes = ["image,report,patient_id,mask"], ["image,finding,x,y,w,h"]
    for name, turned in (("plain", Image.Exif()), ("turned", exif), ("boxed", exif)):
        Image.fromarray(square).save(tmp_path / f"{name}.png", exif=turned)
        rows.append(f"{name}.png,Text.,{name},{name}.png" if name != "boxed" else f"{name}.png,Text.,{name},")
    Image.fromarray(square).save(tmp_path / "half.png", exif=exif)
    (tmp_path / "plain-mask.png").write_bytes((tmp_path / "plain.png").read_bytes())
    rows.append("half.png,Text.,half,plain-mask.png")
    boxes.append("boxed.png,mass,2,2,8,8")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    (tmp_path / "boxes.csv").write_text("\n".join(boxes))
    asked = SourceRequest(str(tmp_path), mask_columns=("mask",), boxes=str(tmp_path / "boxes.csv"))
    plain, turned, boxed, half = scan(asked).records
    for record in (plain, turned):
        content = record.read()
        assert content.image is not None and (content.masks["mask"] == content.image).all()
    with pytest.raises(BadSample, match="mask mask: its EXIF and its image's turn them otherwise"):
        half.read()
    with pytest.raises(BadSample, match="its EXIF turns it, and its boxes may be of either"):
        boxed.read()
