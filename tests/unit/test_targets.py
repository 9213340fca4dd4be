"""What a task run reads beside the pixels, and what its shards must have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from medsd_ray.data.dataset import ShardedDataset
from medsd_ray.data.shards import Sample, ShardWriter, open_split
from medsd_ray.data.targets import LabelTarget, MaskTarget
from medsd_ray.errors import InputError
from medsd_ray.spec.load import parse_run
from medsd_ray.storage import FolderStorage
from medsd_ray.training.checked_run import TaskMeta
from medsd_ray.training.task_data import check_task

SIZE = 8
FINDINGS = ("Effusion", "Normal", "Normal", "Cyst")


def mask_of_row(row: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
    mask[row, :] = row
    return mask


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four samples in several shards; sample k has the gray value 10 k, and k in row k of its mask; the first
    has no mask of the left lung.
    """
    root = tmp_path_factory.mktemp("shards")
    writer = ShardWriter(FolderStorage(root / "train"), 11_000, "image", "train", size=SIZE)
    for row, finding in enumerate(FINDINGS):
        image = np.full((SIZE, SIZE), 10 * row, dtype=np.uint8)
        masks = {"parts": mask_of_row(row)} | ({"left": mask_of_row(row)} if row else {})
        writer.write(Sample(f"s{row}", image, "a report", f"p{row}", {"finding": finding}, masks))
    counts = {name: FINDINGS.count(name) for name in sorted(set(FINDINGS))}
    writer.meta |= {"labels": {"finding": counts}, "masks": {"parts": 4, "left": 3}}
    assert len(writer.finish().shards) > 1
    return str(root)


def rows(shards: str, targets: Any) -> list[dict[str, torch.Tensor]]:
    """Samples 0 to 3."""
    dataset = ShardedDataset(shards, "train", seed=0, targets=targets)
    found = [dataset.sample_at(position) for position in range(4)]
    return sorted(found, key=lambda sample: float(sample["pixel_values"].max()))


def test_a_label_is_read_with_its_own_image(shards: str):
    target = LabelTarget("finding", ("Effusion", "Normal"))
    assert [int(row["label"]) for row in rows(shards, target)] == [0, 1, 1, -1]
    assert [int(row["label"]) for row in rows(shards, LabelTarget("view", ("PA",)))] == [-1] * 4


def test_a_mask_is_read_with_its_own_image(shards: str):
    for number, row in enumerate(rows(shards, MaskTarget("parts", 3, False))):
        assert np.array_equal(row["mask"].numpy(), mask_of_row(number))


def test_of_one_class_every_value_above_0_is_a_pixel(shards: str):
    for number, row in enumerate(rows(shards, MaskTarget("parts", 1, False))):
        assert np.array_equal(row["mask"].numpy(), mask_of_row(number) > 0)


def test_a_value_beyond_the_classes_is_refused(shards: str):
    with pytest.raises(InputError, match="has the value 3, of 2 classes"):
        rows(shards, MaskTarget("parts", 2, False))


def test_a_missing_mask_is_the_background_only_where_the_run_says_so(shards: str):
    assert not rows(shards, MaskTarget("left", 1, True))[0]["mask"].any()
    with pytest.raises(InputError, match="no mask 'left'"):
        rows(shards, MaskTarget("left", 1, False))


def run(**task: Any):
    network = {"library": "monai", "name": "UNet"}
    ((name, settings),) = task.items()
    return parse_run(
        {
            "name": "r",
            "data": {"train": "x"},
            name: {"network": network} | settings,
            "training": {"max_steps": 1, "global_batch_size": 1},
            "output": "y",
        }
    )


def test_classes_are_those_of_the_training_samples(shards: str):
    _, index = open_split(shards, "train")
    assert check_task(run(classifier={}), index, "x") == TaskMeta(
        ("Cyst", "Effusion", "Normal"), (1, 1, 2), SIZE
    )
    chosen = check_task(run(classifier={"classes": ["Normal", "Cyst"]}), index, "x")
    assert chosen and (chosen.classes, chosen.counts) == (("Normal", "Cyst"), (2, 1))
    parts = check_task(run(segmenter={"mask": "parts", "classes": ["a", "b", "c"]}), index, "x")
    assert parts and parts.classes == ("a", "b", "c")
    assert check_task(run(segmenter={"mask": "left", "missing": "background"}), index, "x").classes == (
        "left",
    )


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"classifier": {"label": "view"}}, "no label 'view'.*one of finding"),
        (
            {"classifier": {"classes": ["Normal", "Mass"]}},
            "finding is 'Mass'; there are Cyst, Effus",
        ),
        ({"segmenter": {"mask": "heart"}}, "no mask 'heart'.*one of left, parts"),
        ({"segmenter": {"mask": "left"}}, "1 of 4 samples have no mask 'left'"),
    ],
)
def test_shards_that_lack_what_a_run_learns_are_refused(shards: str, task: dict, words: str):
    _, index = open_split(shards, "train")
    with pytest.raises(InputError, match=words):
        check_task(run(**task), index, "x")
