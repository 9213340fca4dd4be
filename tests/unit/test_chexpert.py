"""CheXpert and CheXpert Plus in their own layouts; drawn images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import medsd_here
from published_sets import (
    CHEXPERT_ROWS,
    captions,
    chexpert,
    chexpert_in_batches,
    chexpert_plus,
    labels,
    read,
    table,
)

from medsd_ray.data.pseudonyms import KEY_VARIABLE
from medsd_ray.errors import InputError


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


def test_the_command_line_says_it_all(tmp_path: Path):
    root = chexpert(tmp_path, plus=True)
    reports = (root / "df_chexpert_plus_240401.csv").rename(tmp_path / "reports.csv")
    words = [
        root,
        tmp_path / "out",
        "--kind",
        "chexpert",
        "--size",
        "16",
        "--view",
        "ap",
        "--view",
        "Lateral",
    ]
    words += ["--uncertain", "negative", "--reports", reports, "--splits", "published"]
    said = medsd_here("prepare", *words, **{KEY_VARIABLE: "a key for this test"})
    assert said.returncode == 0, said.stderr
    assert "1 images are left out: they have no report" in said.stderr
    index = json.loads((tmp_path / "out/index.json").read_text())
    assert {split: value["samples"] for split, value in index["splits"].items()} == {
        "train": 2, "validation": 1,
    }  # fmt: skip
    plan = index["plan"]
    assert (plan["views"], plan["uncertain"], plan["splits"]) == (["Lateral", "ap"], "negative", "published")
    assert str(tmp_path) not in json.dumps(index)


def test_a_table_with_a_quote_amiss_is_refused(tmp_path: Path):
    root = chexpert(tmp_path)
    with (root / "valid.csv").open("a") as file:
        file.write(table([["a", "b"]]) + '"CheXpert\n')
    with pytest.raises(InputError, match=r"valid\.csv line \d+: a quote that is never closed"):
        read("chexpert", root)
