"""Folders of Hugging Face `datasets`: image folders and Parquet files with images in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hugging_face_sets import class_folder, image_folder, parquet, png
from published_sets import save, write

from medsd_ray.data.sources.kinds import open_source
from medsd_ray.data.sources.published import split_of
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import BadSample, Source
from medsd_ray.errors import InputError


def read(root: Path, **more) -> Source:
    return open_source(SourceRequest(str(root), kind="hf", **more))


@pytest.mark.parametrize("metadata", ["csv", "jsonl", "parquet"])
def test_image_folder(tmp_path: Path, metadata: str):
    found = read(image_folder(tmp_path, metadata))
    assert found.problems == [] and len(found.records) == 8
    record = next(record for record in found.records if record.name == "train/images/1.png")
    assert (record.patient, record.split) == ("p0-0", "train")
    content = record.read()
    assert (content.caption, content.labels) == ("Report train 1.", {"split": "train", "label": "1"})
    assert content.image is not None and content.image.shape == (24, 20)
    assert any("objects" in note for note in found.notes) == (metadata == "jsonl")


def test_patients_by_the_paths_that_parquet_files_keep(tmp_path: Path):
    def in_folders(rows: list[dict]) -> None:
        for row in rows:
            row["image"]["path"] = f"{row['patient']}/{row['image']['path']}"

    found = read(parquet(tmp_path, in_folders), patient_regex="^[^/]+", yes_split=True)
    assert sorted(record.patient for record in found.records) == ["p0", "p0", "p1", "p1", "p2"]


def test_masks_are_named_from_their_metadata_on(tmp_path: Path):
    for split in ("train", "test"):
        save(tmp_path / split / "a.png")
        save(tmp_path / split / "mask.png", np.zeros((24, 20), np.uint8))
        write(
            tmp_path / split / "metadata.csv",
            f"file_name,text,patient_id,mask\na.png,Text.,{split},mask.png\n",
        )
    save(tmp_path / "mask.png", np.zeros((3, 3), np.uint8))
    found = read(tmp_path, mask_columns=("mask",))
    content = found.records[0].read()
    assert content.image is not None and content.masks["mask"].shape == content.image.shape


def test_image_folder_without_splits_and_with_another_caption(tmp_path: Path):
    root = image_folder(tmp_path, splits=())
    save(root / "images/more.png")
    found = read(root, caption="Label {label}.")
    assert [record.split for record in found.records] == [None] * 4
    assert found.records[1].read().caption == "Label 1."
    assert any(note.startswith("1 images are left out") for note in found.notes)


def test_metadata_of_several_forms_are_one_table(tmp_path: Path):
    write(tmp_path / "a/metadata.csv", "file_name,text,patient_id\nx.png,One,p1\ny.png,,p2\n")
    write(
        tmp_path / "b/metadata.jsonl",
        '{"file_name": "x.png", "text": "Two", "patient_id": 3, "age": 95.0}\n[]\n\n',
    )
    for name in ("a/x.png", "a/y.png", "b/x.png"):
        save(tmp_path / name)
    found = read(tmp_path)
    assert [(r.name, r.patient, r.read().labels) for r in found.records] == [
        ("a/x.png", "p1", {}),
        ("b/x.png", "3", {"age": "90"}),
    ]
    assert [line for line in found.problems if "the text is empty" in line]
    assert [line for line in found.problems if line.startswith("b/metadata.jsonl line 2: no JSON object")]


def test_other_columns_keep_their_names_and_masks_go_along(tmp_path: Path):
    write(
        tmp_path / "train/metadata.csv",
        "picture,text,patient_id,image,split,lung_file_name\na.png,One,p1,x,holdout,lung.png\n",
    )
    save(tmp_path / "train/a.png")
    save(tmp_path / "train/lung.png", np.full((24, 20), 255, np.uint8))
    found = read(tmp_path, image_column="picture", mask_columns=("lung_file_name",), label_columns=("image",))
    assert found.problems == []
    content = found.records[0].read()
    assert (found.records[0].split, content.labels) == ("train", {"image": "x", "split": "train"})
    assert {name: mask.min() for name, mask in content.masks.items()} == {"lung_file_name": 255}


def test_a_name_cannot_lead_out(tmp_path: Path):
    save(tmp_path / "secret.png")
    write(tmp_path / "in/train/metadata.csv", "file_name,text,patient_id\n../../secret.png,One,p1\n")
    found = read(tmp_path / "in")
    assert not found.records and "leads out of the folder" in found.problems[0]


def test_folders_are_classes(tmp_path: Path):
    root = class_folder(tmp_path)
    with pytest.raises(
        InputError, match=r"no column 'patient_id' among file_name, split, label.*--patient-regex"
    ):
        read(root)
    found = read(root, patient_regex=r"([^/]+)\.png$")
    assert [(r.patient, r.split, r.read().caption) for r in found.records][-1] == (
        "train1",
        "train",
        "normal",
    )
    assert found.records[0].read().labels == {"split": "test", "label": "effusion"}


def test_parquet_with_images(tmp_path: Path):
    found = read(parquet(tmp_path), patient_column="patient")
    assert [(r.name, r.patient, r.split) for r in found.records] == [
        ("data/test-00002-of-00003.parquet#1", "p2", "test"),
        ("data/train-00000-of-00003.parquet#1", "p0", "train"),
        ("data/train-00000-of-00003.parquet#2", "p0", "train"),
        ("data/train-00001-of-00003.parquet#1", "p1", "train"),
        ("data/train-00001-of-00003.parquet#2", "p1", "train"),
    ]
    content = found.records[4].read()
    assert content.image is not None and content.image.shape == (21, 21)
    assert content.caption == "Report 1 1."
    assert content.labels == {"label": "effusion", "age": "90", "split": "train"}


@pytest.mark.parametrize("make", [parquet, class_folder])
def test_each_image_its_own_patient_where_that_is_asked_for(tmp_path: Path, make: Callable[[Path], Path]):
    column = "image" if make is parquet else "file_name"
    found = read(make(tmp_path), patient_column=column, yes_split=True)
    assert len({record.patient for record in found.records}) == len(found.records) >= 5


def test_parquet_images_that_cannot_be_read_are_named(tmp_path: Path):
    def change(rows: list[dict]) -> None:
        rows[0]["image"] = (
            {"bytes": None, "path": "0.png"} if len(rows) == 1 else {"bytes": png()[:60], "path": ""}
        )

    found = read(parquet(tmp_path, change), patient_column="patient")
    assert found.problems == [
        "data/test-00002-of-00003.parquet#1: its image has no bytes; write the set with its images in it, or "
        "drop the row"
    ]
    with pytest.raises(BadSample, match="damaged"):
        found.records[0].read()


def test_parquet_with_masks_or_names_twice(tmp_path: Path):
    images = pyarrow.array([{"bytes": png(), "path": f"{i}.png"} for i in range(3)])
    texts, patients = pyarrow.array(["One", "Two", "Three"]), pyarrow.array([1, 2, 3])

    def write_columns(**columns: pyarrow.Array) -> None:
        names = [name.rstrip("_") for name in columns]
        pyarrow.parquet.write_table(
            pyarrow.Table.from_arrays([*columns.values()], names), tmp_path / "a.parquet"
        )

    write_columns(image=images, mask=images, text=texts, patient_id=patients)
    found = read(tmp_path, image_column="image")
    assert found.notes[0] == "Parquet: columns left out, since they hold no plain values: mask"
    said = "--mask-column mask: the table holds the masks themselves, or lists; write a folder of images"
    with pytest.raises(InputError, match=said):
        read(tmp_path, image_column="image", mask_columns=("mask",))
    write_columns(image=images, text=texts, text_=texts[::-1], patient_id=patients)
    with pytest.raises(InputError, match=r"a\.parquet: two columns named 'text'; rename one$"):
        read(tmp_path)
    write_columns(image=images, image_=images, text=texts, patient_id=patients)
    with pytest.raises(InputError, match=r"a\.parquet: two columns named 'image'; rename one$"):
        read(tmp_path, image_column="image")


def test_a_name_twice_in_a_line_of_json_is_said(tmp_path: Path):
    line = '{"file_name": "a.png", "patient_id": 1, "text": "One"'
    write(tmp_path / "metadata.jsonl", f'{line}}}\n{line}, "patient_id": 2}}\n')
    save(tmp_path / "a.png")
    found = read(tmp_path)
    assert len(found.records) == 1 and found.problems == [
        "metadata.jsonl line 2: no JSON object, or a name twice in one; write one on each line, with a "
        "file_name"
    ]


def test_refusals_in_one_line(tmp_path: Path):
    with pytest.raises(InputError, match=r"no metadata\.csv, metadata\.jsonl, \*\.parquet or image here"):
        read(tmp_path)
    root = parquet(tmp_path / "parquet")
    with pytest.raises(InputError, match="no column 'scan' with images; name one with --image-column: image"):
        read(root, image_column="scan")
    (root / "data/train-00000-of-00003.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"train-00000-of-00003\.parquet: no sound Parquet file"):
        read(root)
    write(tmp_path / "other/metadata.csv", "image,text\na.png,b\n")
    with pytest.raises(
        InputError, match=r"no column 'file_name' among image, text; .*--image-column.*--kind folder"
    ):
        read(tmp_path / "other")
    write(tmp_path / "saved/data-00000-of-00001.arrow", "")
    with pytest.raises(InputError, match="`save_to_disk` wrote; write it by `to_parquet`"):
        read(tmp_path / "saved")


@pytest.mark.parametrize(
    ("path", "by_name", "split"),
    [
        ("train/a.png", False, "train"),
        ("data/valid/a.png", False, "validation"),
        ("DEV/a.parquet", True, "validation"),
        ("data/test-00000-of-00001.parquet", True, "test"),
        ("my_eval_file.parquet", True, "test"),
        ("test.png", False, ""),
        ("trainable.parquet", True, ""),
    ],
)
def test_splits_by_names(path: str, by_name: bool, split: str):
    assert split_of(path, by_name=by_name) == split
    assert split_of(path, "Val", by_name=by_name) == "validation"
    assert split_of(path, "fold 1", by_name=by_name) == split
