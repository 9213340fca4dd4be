"""`medsd augment` on phantoms: a study whose trials are the cases, each judged on real held-out patients."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image
from reader_study import generated_images

from medsd_ray.data.prepare import prepare
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.errors import InputError
from medsd_ray.tuning.augment import augment

quiet = lambda _: None


@pytest.mark.timeout(1200)  # six trainings, each with a Ray Train of its own
def test_augmentation_is_scored_on_held_out_patients(tmp_path: Path):
    shards, made, out = str(tmp_path / "shards"), str(tmp_path / "made"), str(tmp_path / "out")
    prepare(SourceRequest("120", "phantom", size=32), shards, splits="0.6,0.1,0.3")
    generated_images(tmp_path / "made", 40, 32)
    how = {"ratios": [3.0], "num_seeds": 2, "samples_seen": 64}
    found = augment(shards, made, out, **how, say=quiet)
    assert [one["case"] for one in found["cases"]] == ["real", "generated", "real + 3x generated"]
    train = found["train"]
    assert [one["images"] for one in found["cases"]] == [train, found["generated"], 4 * train]
    assert found["test"] == found["test_patients"] >= 30
    for one in found["cases"]:
        assert 0 <= one["accuracy"] <= 1 and 0 <= one["auroc"] <= 1
    assert any("each generated image is seen" in note for note in found["notes"])
    rows = list(csv.DictReader((tmp_path / "out/augmentation.csv").open(newline="")))
    assert len(rows) == 6 and {row["seed"] for row in rows} == {"0", "1"}
    assert len({row["accuracy"] + row["auroc"] for row in rows}) > 1  # what is learnt from makes a difference
    with Image.open(tmp_path / "out/augmentation.png") as plot:
        assert plot.width > 600
    said: list[str] = []
    augment(shards, made, out, **how, say=said.append)
    assert "nothing to do" in said[0]
    with pytest.raises(InputError, match="choose 2 to 32 seeds"):
        augment(shards, made, str(tmp_path / "other"), num_seeds=1, say=quiet)
