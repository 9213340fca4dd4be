"""MIMIC-CXR-JPG in its own layout, with the reports of MIMIC-CXR; drawn images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from published_sets import (
    MIMIC_STUDIES,
    captions,
    dicom_id,
    labels,
    mimic_cxr,
    read,
    write,
)

from medsd_ray.data.prepare import prepare
from medsd_ray.data.pseudonyms import KEY_VARIABLE
from medsd_ray.data.shards import iter_samples, list_splits
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.errors import InputError


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
