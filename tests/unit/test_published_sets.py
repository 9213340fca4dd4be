"""NIH ChestX-ray14 and PadChest in their own layouts, and what all published sets share; drawn images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from published_sets import (
    NIH_ROWS,
    captions,
    labels,
    nih,
    padchest,
    read,
    save,
)

from medsd_ray.data.prepare import prepare
from medsd_ray.data.pseudonyms import KEY_VARIABLE
from medsd_ray.data.shards import iter_samples
from medsd_ray.data.sources.findings import CHEXPERT, labelled, listed, python_list
from medsd_ray.data.sources.published import CAPTION, age_of, sex_of, view_of
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import BadSample
from medsd_ray.errors import InputError


def test_a_bad_image_is_left_out_where_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(KEY_VARIABLE, "a key for this test")
    root = nih(tmp_path / "in")
    (root / "images_001/images/00090001_000.png").write_bytes(b"\x89PNG")
    asked = SourceRequest(str(root), kind="nih", size=16)
    with pytest.raises(InputError, match=r"00090001_000\.png: .*; the other 5 samples are in"):
        prepare(asked, str(tmp_path / "out"), splits="1,0,0")
    prepare(asked, str(tmp_path / "other"), splits="1,0,0", skip_bad="1")
    assert len(list(iter_samples(str(tmp_path / "other"), "train"))) == 5
    index = json.loads((tmp_path / "other/index.json").read_text())
    assert index["skipped"] == 1 and index["plan"]["chosen"] == {"caption": CAPTION}


def test_a_set_without_splits_has_none_published(tmp_path: Path):
    asked = SourceRequest(str(padchest(tmp_path / "in")), kind="padchest", size=16)
    with pytest.raises(InputError, match="--splits published: this source says nothing of splits"):
        prepare(asked, str(tmp_path / "out"), splits="published")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("version", ["_v2020", ""])
def test_nih(tmp_path: Path, version: str):
    found = read("nih", nih(tmp_path, version=version))
    assert captions(found) == [
        "58 year old male. PA chest X-ray. Findings: cardiomegaly.",
        "58 year old male. PA chest X-ray. Findings: cardiomegaly, pleural thickening.",
        "81 year old male. PA chest X-ray. Findings: no finding.",
        "90 year old female. PA chest X-ray. Findings: hernia.",
        "AP chest X-ray. Findings: effusion, pneumonia.",
        "69 year old female. AP chest X-ray. Findings: atelectasis, infiltration.",
    ]
    assert [record.split for record in found.records] == ["train"] * 4 + ["test"] * 2
    assert found.records[3].name == "images_002/images/00090003_000.png"
    assert found.records[3].patient == "90003"
    known = found.records[1].read().labels
    assert known["finding"] == "Cardiomegaly|Pleural_Thickening"
    assert (known["Pleural_Thickening"], known["Hernia"]) == ("positive", "negative")
    assert "age" not in found.records[4].read().labels
    assert "1 ages are left out: none, or beyond 120 years" in found.notes


def test_nih_boxes_are_masks_in_the_images_own_pixels(tmp_path: Path):
    """The drawn images have 64 pixels, the table's boxes are of 1024."""
    root = nih(tmp_path)
    found = read("nih", root)
    masks = found.records[5].read().masks
    assert sorted(masks) == ["atelectasis", "infiltration"]
    atelectasis, infiltration = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    atelectasis[32:36, 16:24] = 255
    infiltration[8:24, 32:48] = 255
    assert np.array_equal(masks["atelectasis"], atelectasis)
    assert np.array_equal(masks["infiltration"], infiltration)
    assert {name: int((mask > 0).sum()) for name, mask in found.records[0].read().masks.items()} == {
        "cardiomegaly": 64 * 32
    }
    assert found.records[1].read().masks == {}
    table = root / "BBox_List_2017.csv"
    for wrong in ("00090001_000.png,Cardiomegaly,1,2,nan,3,,,", "a.png,Lump,1,2,3,4", "a.png,Mass,1,2,3"):
        table.write_text("Image Index,Finding Label,Bbox [x,y,w,h],,,\n" + wrong + "\n")
        with pytest.raises(InputError, match=r"BBox_List_2017\.csv line 2: no "):
            read("nih", root)


def test_nih_without_lists(tmp_path: Path):
    found = read("nih", nih(tmp_path, lists=False), views=("AP",))
    assert [(record.patient, record.split) for record in found.records] == [("90004", None), ("90005", None)]
    with pytest.raises(InputError, match="--view: no image is 'LL'; there are AP, PA"):
        read("nih", tmp_path, views=("AP", "LL"))


def test_nih_names_images_that_are_not_there_or_twice_there(tmp_path: Path):
    root = nih(tmp_path)
    (root / "images_001/images/00090001_000.png").unlink()
    save(root / "images-224/00090001_001.png")
    path = root / "Data_Entry_2017_v2020.csv"
    path.write_text(path.read_text().replace(",Hernia,", ",Hernias,"))
    found = read("nih", root)
    assert [line.partition(": ")[2] for line in found.problems] == [
        "00090001_000.png: there is no such image in any folder of the set; add it, or allow it by "
        "--skip-bad",
        "00090001_001.png: there are 2 images of this name, such as images-224/00090001_001.png; keep one",
        "00090003_000.png: it has a finding that this set does not know; mend the table",
    ]
    assert len(found.records) == len(NIH_ROWS) - 3


@pytest.mark.parametrize(("flat", "gz"), [(False, False), (True, True)])
def test_padchest(tmp_path: Path, flat: bool, gz: bool):
    found = read("padchest", padchest(tmp_path, flat=flat, gz=gz))
    assert captions(found) == [
        "84 year old female. PA chest X-ray. Findings: normal.",
        "90 year old male. Lateral chest X-ray. Findings: pulmonary fibrosis, chronic changes.",
        "AP supine chest X-ray.",
        "62 year old male.",
    ]
    assert labels(found, 1)["finding"] == "pulmonary fibrosis|chronic changes"
    assert found.records[0].patient == "900000000000000000000000000000000001"
    image = found.records[0].read().image
    assert image is not None
    assert (image.shape, str(image.dtype), image.min(), image.max()) == ((30, 26), "uint8", 0, 255)
    assert "1 images are left out: the set's authors exclude them" in found.notes
    assert any(note.startswith("1 images are MONOCHROME1") for note in found.notes)


def test_padchest_reports(tmp_path: Path):
    found = read("padchest", padchest(tmp_path), caption_column="report")
    assert captions(found) == ["sin hallazg .", "cambi cronic . sign fibrosis", 'pinz "crest" , sin cambi']


def test_padchest_names_bad_rows(tmp_path: Path):
    root = padchest(tmp_path)
    path = root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    text = (
        path.read_text()
        .replace("['normal']", "['normal'")
        .replace(",900000000000000000000000000000000003,", ",,")
    )
    path.write_text(text + "5,one.png\n")
    found = read("padchest", root)
    assert len(found.records) == 2
    for said in (
        "line 2: 90000000000000000000000000000000000001_k6ga29.png: its labels are no list such as",
        "line 6: 1/90000000000000000000000000000000000003_3k951n.png: the patient_id is empty",
        "line 12: 2 cells under 36 columns",
    ):
        assert any(said in line for line in found.problems), found.problems


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("58", "58"), ("058Y", "58"), ("004M", "0"), ("013D", "0"), ("68.0", "68"), ("95", "90"), ("414", ""),
        ("", ""), ("old", ""), ("-3", ""),
    ],
)  # fmt: skip
def test_ages(text: str, years: str):
    assert age_of(text) == years


def test_views_and_sexes():
    views = {"PA": "PA", "ap": "AP", "LL": "Lateral", "LATERAL": "Lateral", "L": "Lateral"}
    views |= {"AP_horizontal": "AP supine", "UNK": "", "LPO": "LPO", "": ""}
    assert {text: view_of(text) for text in views} == views
    assert [sex_of(text) for text in ("F", "Male", "Unknown", "O", "")] == ["female", "male", "", "", ""]


def test_findings():
    assert labelled({"No Finding": "1.0", "Support Devices": "1.0"}, "omit")["finding"] == "Support Devices"
    assert set(labelled({}, "positive").values()) == {""}
    assert labelled(dict.fromkeys(CHEXPERT, "-1"), "positive")["Edema"] == "positive"
    with pytest.raises(BadSample, match="Edema is neither"):
        labelled({"Edema": "yes"}, "omit")
    assert listed(["No Finding"], ["Mass"]) == {
        "Mass": "negative", "finding": "No Finding", "finding_names": "no finding",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["['a'", "'a'", "{'a': 1}", "[1]", "[['a']]", "__import__('os')", "[" * 5000]
)
def test_what_is_no_list_of_words_is_refused(text: str):
    with pytest.raises(BadSample, match="no list"):
        python_list(text)


@pytest.mark.parametrize("kind", ["folder", "nih", "padchest", "hf", "openi", "dicom", "phantom"])
@pytest.mark.parametrize(("field", "value"), [("uncertain", "positive"), ("reports", "x")])
def test_options_of_other_kinds_are_refused(kind: str, field: str, value: str):
    with pytest.raises(InputError, match=f"--{field} is for --kind mimic-cxr or chexpert"):
        read(kind, Path("x"), **{field: value})
