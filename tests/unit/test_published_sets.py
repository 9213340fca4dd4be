"""Published sets in their own layouts: names of files and columns, encodings and quirks; drawn images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from published_sets import (
    CHEXPERT_ROWS,
    MIMIC_STUDIES,
    NIH_ROWS,
    chexpert,
    chexpert_in_batches,
    chexpert_plus,
    dicom_id,
    mimic_cxr,
    nih,
    padchest,
    save,
    table,
    write,
)

from medsd_ray.data.prepare import prepare
from medsd_ray.data.pseudonyms import KEY_VARIABLE
from medsd_ray.data.shards import iter_samples, list_splits
from medsd_ray.data.sources.findings import CHEXPERT, labelled, listed, python_list
from medsd_ray.data.sources.kinds import open_source
from medsd_ray.data.sources.published import CAPTION, age_of, sex_of, view_of
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import BadSample, Source
from medsd_ray.errors import InputError


def read(kind: str, root: Path, **more) -> Source:
    return open_source(SourceRequest(str(root), kind=kind, **more))


def captions(source: Source) -> list[str]:
    assert source.problems == []
    return [record.read().caption for record in source.records]


def labels(source: Source, number: int = 0) -> dict[str, object]:
    """Of a record, without findings that are not there."""
    return {k: v for k, v in source.records[number].read().labels.items() if v != "negative"}


# MIMIC-CXR


@pytest.mark.parametrize("reports", ["folder", "zip"])
@pytest.mark.parametrize("gz", [True, False])
def test_mimic_cxr(tmp_path: Path, reports: str, gz: bool):
    found = read("mimic-cxr", mimic_cxr(tmp_path, gz=gz, reports=reports))
    assert captions(found) == [
        "No acute cardiopulmonary process.",
        "No acute cardiopulmonary process.",
        "The lungs are clear. No effusion is seen.",
        "Small left effusion.",
        "Small left effusion.",
    ]
    first, _, uncertain, effusion, _ = found.records
    assert first.name == f"files/p10/p10900001/s59000001/{dicom_id('59000001', 0)}.jpg"
    assert (first.patient, first.split, effusion.split) == ("10900001", "train", "validation")
    assert labels(found) == {
        "view": "PA",
        "finding": "No Finding",
        "No Finding": "positive",
        "split": "train",
    }
    assert labels(found, 1)["view"] == labels(found, 4)["view"] == "Lateral"
    assert labels(found, 3)["finding"] == "Edema|Pleural Effusion"
    assert uncertain.read().labels == {"view": "PA", "Pneumonia": "negative", "split": "train"}
    assert "1 images are left out: they have no report" in found.notes
    suffix = ".csv.gz" if gz else ".csv"
    assert f"findings are those of mimic-cxr-2.0.0-chexpert{suffix}" in found.notes


def test_mimic_cxr_in_the_words_of_roentgen(tmp_path: Path):
    """Impressions of frontal images alone."""
    found = read("mimic-cxr", mimic_cxr(tmp_path), caption_column="impression", views=("pa",))
    assert captions(found) == ["No acute cardiopulmonary process."]
    assert "4 images are left out: --view takes pa" in found.notes
    assert "1 images are left out: they have no impression" in found.notes


def test_mimic_cxr_without_reports(tmp_path: Path):
    root = mimic_cxr(tmp_path, reports="none", labeller="negbio")
    with pytest.raises(InputError, match=r"no mimic-cxr-reports or mimic-cxr-reports\.zip here") as caught:
        read("mimic-cxr", root)
    assert "\n" not in str(caught.value)
    template = "Chest X-ray. {view} view. Findings: {finding_names}."
    found = read("mimic-cxr", root, caption=template)
    assert captions(found)[0] == "Chest X-ray. PA view. Findings: no finding."
    assert captions(found)[5] == "Chest X-ray."
    assert "findings are those of mimic-cxr-2.0.0-negbio.csv.gz" in found.notes
    elsewhere = mimic_cxr(tmp_path / "elsewhere", reports="zip") / "mimic-cxr-reports.zip"
    assert captions(read("mimic-cxr", root, reports=str(elsewhere)))[3] == "Small left effusion."
    with pytest.raises(InputError, match=r"--reports .*no such file"):
        read("mimic-cxr", root, reports=str(tmp_path / "gone"))
    with pytest.raises(InputError, match="no zip of reports"):
        read("mimic-cxr", root, reports=str(root / "mimic-cxr-2.0.0-split.csv.gz"))


def test_all_missing_files_are_named_at_once(tmp_path: Path):
    with pytest.raises(
        InputError, match=r"no mimic-cxr-2\.0\.0-metadata\.csv, and no mimic-cxr-reports or .*SOURCE|add them"
    ):
        read("mimic-cxr", tmp_path)
    mimic_cxr(tmp_path / "2.1.0", reports="none")
    with pytest.raises(InputError, match=r"give \S+2\.1\.0 as SOURCE"):
        read("mimic-cxr", tmp_path)


def test_a_missing_image_and_a_report_that_cannot_be_read_are_named(tmp_path: Path):
    root = mimic_cxr(tmp_path)
    (root / f"files/p10/p10900001/s59000001/{dicom_id('59000001', 1)}.jpg").unlink()
    (root / "mimic-cxr-reports/files/p10/p10900001/s59000002.txt").write_bytes(b"\xff\xfe IMPRESSION: x")
    found = read("mimic-cxr", root)
    assert len(found.records) == 3
    report, image = sorted(found.problems, key=lambda line: "no such file" in line)
    assert image.startswith("mimic-cxr-2.0.0-metadata.csv.gz line 3") and "there is no such file" in image
    assert "its report cannot be read (UnicodeDecodeError)" in report


def test_a_study_cannot_lead_out_of_the_reports(tmp_path: Path):
    root = mimic_cxr(tmp_path / "set", gz=False)
    write(tmp_path / "secret.txt", " FINAL REPORT\n IMPRESSION: Secret.\n")
    (root / "mimic-cxr-reports/files/p10/p10900001/s").mkdir()
    path = root / "mimic-cxr-2.0.0-metadata.csv"
    path.write_text(path.read_text().replace(",59000002,", ",/../../../../../../secret,"))
    assert (root / "mimic-cxr-reports/files/p10/p10900001/s/../../../../../../secret.txt").exists()
    found = read("mimic-cxr", root)
    assert len(found.problems) == 1 and "leads out of the folder" in found.problems[0]


def test_a_row_of_another_table_that_cannot_be_read_is_refused(tmp_path: Path):
    root = mimic_cxr(tmp_path, gz=False)
    with (root / "mimic-cxr-2.0.0-split.csv").open("a") as file:
        file.write("a,b\n")
    with pytest.raises(InputError, match=r"mimic-cxr-2\.0\.0-split\.csv line 8: 2 cells under 4 columns"):
        read("mimic-cxr", root)


def test_shards_in_the_published_splits_without_identities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(KEY_VARIABLE, "a key for this test")
    asked = SourceRequest(
        str(mimic_cxr(tmp_path / "in")), kind="mimic-cxr", size=16, views=("PA", "AP"), uncertain="positive"
    )
    dest = tmp_path / "out"
    prepare(asked, str(dest), splits="published")
    parts = {split: list(iter_samples(str(dest), split)) for split in list_splits(str(dest))}
    assert {split: sorted(sample.caption for sample in part) for split, part in parts.items()} == {
        "train": ["No acute cardiopulmonary process.", "The lungs are clear. No effusion is seen."],
        "validation": ["Small left effusion."],
    }
    index = json.loads((dest / "index.json").read_text())
    assert (index["plan"]["splits"], index["plan"]["uncertain"]) == ("published", "positive")
    assert index["plan"]["chosen"] == {
        "caption": "report", "findings": "mimic-cxr-2.0.0-chexpert.csv.gz", "uncertain": "positive",
    }  # fmt: skip
    assert index["command"].startswith("medsd prepare SOURCE DEST --kind mimic-cxr --shard-size")
    assert "--view AP --view PA --uncertain positive --splits published" in index["command"]
    assert "--patient-column" not in index["command"]
    everything = b"".join(path.read_bytes() for path in dest.rglob("*") if path.is_file())
    for study, (patient, *_) in MIMIC_STUDIES.items():
        for secret in (patient, study, dicom_id(study, 0)):
            assert secret.encode() not in everything
    with pytest.raises(InputError, match="differ in splits"):
        prepare(asked, str(dest), splits="0.4,0.3,0.3")


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
    with pytest.raises(InputError, match="--splits published: the set says of 4 patients not in which split"):
        prepare(asked, str(tmp_path / "out"), splits="published")
    assert not (tmp_path / "out").exists()


# CheXpert


@pytest.mark.parametrize("small", [True, False])
def test_chexpert(tmp_path: Path, small: bool):
    found = read("chexpert", chexpert(tmp_path, small=small))
    assert captions(found) == [
        "68 year old female. AP chest X-ray. Findings: support devices.",
        "87 year old male. PA chest X-ray. Findings: fracture.",
        "87 year old male. Lateral chest X-ray. Findings: fracture.",
        "AP chest X-ray. Findings: pleural effusion.",
        "90 year old female. AP chest X-ray.",
    ]
    assert [record.patient for record in found.records][1:4] == [
        "patient00002",
        "patient00002",
        "patient00003",
    ]
    assert [record.split for record in found.records] == ["train"] * 4 + ["validation"]
    assert labels(found, 4)["age"] == "90"


def test_chexpert_in_the_batches_of_the_full_size_set(tmp_path: Path):
    found = read("chexpert", chexpert_in_batches(tmp_path / "in"))
    assert captions(found) == captions(read("chexpert", chexpert(tmp_path / "other")))
    assert [record.name.partition("/patient")[0] for record in found.records] == [
        "CheXpert-v1.0 batch 2 (train 1)",
        "CheXpert-v1.0 batch 3 (train 2)",
        "CheXpert-v1.0 batch 3 (train 2)",
        "CheXpert-v1.0 batch 4 (train 3)",
        "CheXpert-v1.0 batch 1 (validate & csv)/valid",
    ]


@pytest.mark.parametrize(
    ("uncertain", "finding", "cardiomegaly"),
    [
        (None, "Fracture", None),
        ("omit", "Fracture", None),
        ("positive", "Cardiomegaly|Fracture", "positive"),
        ("negative", "Fracture", "negative"),
    ],
)
def test_uncertain_findings_by_choice(
    tmp_path: Path, uncertain: str | None, finding: str, cardiomegaly: str | None
):
    found = read("chexpert", chexpert(tmp_path), uncertain=uncertain)
    known = found.records[1].read().labels
    assert (known["finding"], known.get("Cardiomegaly")) == (finding, cardiomegaly)


def test_chexpert_with_the_reports_of_plus(tmp_path: Path):
    root = chexpert(tmp_path, plus=True)
    found = read("chexpert", root)
    assert captions(found) == [
        "1. No acute disease.",
        "Healing rib fracture.",
        "Healing rib fracture.",
        "Normal chest.",
    ]
    assert "1 images are left out: they have no report" in found.notes
    assert captions(read("chexpert", root, caption="{view} chest X-ray. {findings}"))[-1] == (
        "AP chest X-ray. Clear lungs."
    )
    elsewhere = (root / "df_chexpert_plus_240401.csv").rename(tmp_path / "reports.csv")
    assert len(captions(read("chexpert", root))) == len(CHEXPERT_ROWS)
    assert captions(read("chexpert", root, reports=str(elsewhere)))[0] == "1. No acute disease."


def test_chexpert_plus_alone(tmp_path: Path):
    found = read("chexpert", chexpert_plus(tmp_path), views=("Lateral",))
    assert captions(found) == ["Healing rib fracture."]
    assert found.records[0].name == "PNG/train/patient00002/study1/view2_lateral.png"
    assert labels(found) == {"age": "87", "sex": "male", "view": "Lateral", "split": "train"}


def test_chexpert_refuses_in_one_line(tmp_path: Path):
    root = chexpert(tmp_path)
    with pytest.raises(InputError, match=r"no train\.csv or valid\.csv or .*give \S+small as SOURCE"):
        read("chexpert", tmp_path)
    path = root / "train.csv"
    text = path.read_text()
    path.write_text(text.replace("Sex,Age,", "Gender,Years,"))
    with pytest.raises(InputError, match=r"no columns 'Sex', 'Age' among Path, Gender"):
        read("chexpert", root)
    path.write_text(text.replace("train/patient00002/study1/view1", "a", 1).replace(",-1.0,", ",2,", 2))
    found = read("chexpert", root)
    assert [line.partition(": ")[0] for line in found.problems] == ["train.csv line 3", "train.csv line 4"]
    assert "its path names no split and patient" in found.problems[0]
    assert "Cardiomegaly is neither 1, 0, -1 nor empty" in found.problems[1]


# NIH ChestX-ray14


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


# PadChest


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


# What they share


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


def test_a_table_with_a_quote_amiss_is_refused(tmp_path: Path):
    root = chexpert(tmp_path)
    with (root / "valid.csv").open("a") as file:
        file.write(table([["a", "b"]]) + '"CheXpert\n')
    with pytest.raises(InputError, match=r"valid\.csv line \d+: a quote that is never closed"):
        read("chexpert", root)
