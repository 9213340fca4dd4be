"""What `medsd augment` trains on, and how it sums up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medsd_ray.data.shards import iter_samples, read_index
from medsd_ray.errors import InputError
from medsd_ray.evaluation.estimates import too_few
from medsd_ray.evaluation.inputs import ImageSet, read_made
from medsd_ray.spec import plan
from medsd_ray.spec.space import combinations
from medsd_ray.storage import FolderStorage
from medsd_ray.tuning.augment import (
    augment,
    cases,
    labelled,
    rows_of,
    study_of,
    summarise,
    summary,
    write_shards,
)


def image_set(name: str, captions: list[str], labels: list[str | None], value: int = 0) -> ImageSet:
    keys = [f"{name}-{i}" for i in range(len(captions))]
    return ImageSet(np.full((len(keys), 4, 4, 1), value, np.uint8), keys, captions, keys, labels)


TRAIN = image_set("real", ["ill", "well"] * 10, ["Mass", "No Finding"] * 10)
MADE = image_set("made", ["ill", "well", "unheard of"] * 8, [None] * 24, 255)


def test_a_prompt_names_the_label_of_its_caption():
    found = labelled(MADE, TRAIN)
    assert len(found) == 16 and set(zip(found.captions, found.labels, strict=True)) == {
        ("ill", "Mass"),
        ("well", "No Finding"),
    }


def test_the_cases_are_sources_of_a_study(tmp_path: Path):
    every = cases([0.5, 2.0])
    assert [case.name for case in every] == [
        "real", "generated", "real + 0.5x generated", "real + 2x generated"
    ]  # fmt: skip
    real, made = {"shards": "real"}, {"shards": "made", "kind": "generated"}
    assert [case.sources("real", "made") for case in every] == [
        [real], [made], [real, made | {"weight": 0.5}], [real, made | {"weight": 2.0}]
    ]  # fmt: skip
    study = study_of(
        "real", FolderStorage(tmp_path), every, seeds=range(3, 6), label="finding", steps=40, size=64
    )
    runs = [plan.trial_run(study, one, 3, "0000") for one in combinations(study.space)]
    weights = [run and run.data.sources and run.data.sources[-1].weight for run in runs]
    assert weights == [None, None, 0.5, 2.0] and list(study.seeds) == [3, 4, 5]
    assert all(run and run.data.validation == "real" and run.data.train is None for run in runs)


def test_generated_images_become_shards_with_their_labels(tmp_path: Path):
    made = labelled(MADE, TRAIN)
    for _ in range(2):  # the second time nothing is done
        write_shards(FolderStorage(tmp_path), made, "finding")
    samples = list(iter_samples(str(tmp_path), "train"))
    assert [sample.labels["finding"] for sample in samples] == made.labels
    assert [sample.patient for sample in samples] == made.keys
    assert all(sample.image is not None and (sample.image == 255).all() for sample in samples)
    assert read_index(str(tmp_path)).meta["labels"] == {"finding": {"Mass": 8, "No Finding": 8}}


def test_a_training_that_failed_says_why():
    trials = [
        {"seed": seed, "error": error, "metrics": {} if error else {"accuracy": 0.9, "auroc": 0.95}}
        for error in (None, "diverged", None)
        for seed in (0, 1)
    ]
    rows = rows_of(trials, cases([1.0]), train=20, made=16, few=None)
    assert [row["images"] for row in rows] == [20, 20, 16, 16, 40, 40]
    assert (
        rows[0]["auroc"] == 0.95 and rows[2]["accuracy"] is None and rows[2]["accuracy_reason"] == "diverged"
    )


def test_gains_are_taken_seed_by_seed():
    rows = [
        {"case": case, "seed": seed, "images": 9, "accuracy": base + by, "auroc": base + by}
        for case, by in (("real", 0.0), ("real + 1x generated", 0.05))
        for seed, base in enumerate((0.6, 0.7, 0.8))
    ]
    rows += [
        {
            "case": "generated",
            "seed": 0,
            "accuracy": None,
            "accuracy_reason": "too few",
            "auroc": None,
            "auroc_reason": "too few",
        }
    ]
    real, generated, mixed = summarise(rows, cases([1.0]))
    assert real["accuracy"] == pytest.approx(0.7)
    assert real["accuracy_interval"] == pytest.approx([0.7 - 0.2484, 0.7 + 0.2484], abs=1e-4)  # 4.303·0.1/√3
    assert "accuracy_gain" not in real
    assert mixed["accuracy_gain"] == pytest.approx(0.05) and mixed["auroc_gain_interval"] is None
    assert "all 3 values are the same" in mixed["auroc_gain_interval_reason"]  # 0.05 up to rounding
    assert generated["accuracy"] is None and generated["accuracy_reason"] == "too few"


def test_few_held_out_images_give_means_without_intervals():
    rows = [
        {"case": case, "seed": seed, "images": 9, "accuracy": 0.9, "auroc": None, "auroc_reason": "few"}
        for case in ("real", "real + 1x generated", "generated")
        for seed in (0, 1)
    ]
    few = too_few(29, 12)
    found = summarise(rows, cases([1.0]), few)
    for one in found:
        assert one["accuracy"] == 0.9 and one["accuracy_interval"] is None and one["auroc"] is None
        assert (
            one["accuracy_interval_reason"]
            == "too few: 29 images of 12 patients, where 30 of 10 patients are needed"
        )
    assert found[-1]["accuracy_gain_interval"] is None
    said = summary({"cases": found, "test": 29, "test_patients": 12})
    assert said.endswith(f"no intervals and no AUROC, {few}")


@pytest.mark.parametrize("ratio", [float("nan"), float("inf"), -1.0, 0.0, 1e9])
def test_a_ratio_out_of_range_is_refused_before_anything_is_read(tmp_path: Path, ratio: float):
    for changes in ({"ratios": (0.5, ratio)}, {"num_seeds": 1}, {"num_seeds": 10**9}):
        with pytest.raises(InputError, match="--ratio"):
            augment(str(tmp_path / "absent"), str(tmp_path / "absent"), str(tmp_path / "out"), **changes)


@pytest.mark.parametrize("text", ["[]", "1", "null", "{", '{"images": 1}', '{"images": [1]}', "[" * 9999])
def test_a_plan_of_images_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str):
    (tmp_path / "generated.json").write_text(text)
    with pytest.raises(InputError, match=r"generated\.json: not what") as caught:
        read_made(str(tmp_path), (8, 8), 1)
    assert "\n" not in str(caught.value)
