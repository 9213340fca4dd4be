"""What `medsd augment` trains on, and how it sums up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medsd_ray.errors import InputError
from medsd_ray.evaluation.augment import Case, augment, cases, labelled, mixture, summarise, summary
from medsd_ray.evaluation.estimates import too_few
from medsd_ray.evaluation.inputs import ImageSet, read_made


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


def test_the_cases_and_what_they_train_on():
    made = labelled(MADE, TRAIN)
    real, generated, half, double = cases([0.5, 2.0])
    assert [case.name for case in (half, double)] == ["real + 0.5x generated", "real + 2x generated"]
    assert mixture(real, TRAIN, made, 0).keys == TRAIN.keys
    mixed = mixture(half, TRAIN, made, 0)
    assert len(mixed) == 30 and mixed.keys[:20] == TRAIN.keys and (mixed.pixels[20:] == 255).all()
    assert len(set(mixed.keys)) == 30
    assert mixture(half, TRAIN, made, 0).keys == mixed.keys != mixture(half, TRAIN, made, 1).keys
    with pytest.raises(ValueError, match="40 generated images are needed, there are 16"):
        mixture(double, TRAIN, made, 0)
    assert sorted(mixture(generated, TRAIN, made, 0).keys) == sorted(
        made.keys
    )  # fewer than the real ones: all
    alone = mixture(Case("generated", False, 0.5), TRAIN, made, 0)
    assert len(alone) == 10 and not set(alone.keys) & set(TRAIN.keys)


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
