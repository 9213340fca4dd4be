"""Conditions as a run's data and a command line give them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conditioned import SETTINGS, SQUARE
from small_latents import write_latents
from specs import RUN, changed
from tiny import tiny_components

from medsd_ray.data.conditions import PRESENT, VALUE, ConditionTargets
from medsd_ray.data.latents import LatentNote, LatentReader, to_bytes
from medsd_ray.data.shard_png import write_png
from medsd_ray.data.shards import Sample, ShardWriter
from medsd_ray.errors import InputError
from medsd_ray.generation.mask_sets import checksum, read_mask_sets
from medsd_ray.generation.wishes import (
    Wish,
    parse_pairs,
    parse_weights,
    read_wishes,
    values_of,
    with_conditions,
)
from medsd_ray.models.save import save_pipeline
from medsd_ray.spec.conditions import CONDITIONS
from medsd_ray.spec.load import parse_run
from medsd_ray.storage import open_storage
from medsd_ray.training.checks import check_data
from medsd_ray.training.ray_train import _from_plain, _plain

AGES = [str(20 + number) for number in range(40)]
"""More than an index counts."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_pipeline(tiny_components(), folder)
    return str(folder)


@pytest.fixture(scope="module")
def latents(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("latents"))
    labels: list[dict] = [
        {"age": age, "sex": "FM"[i % 2], "note": "" if i % 8 else "x"} for i, age in enumerate(AGES)
    ]
    notes = [LatentNote(one, None, {} if i % 4 else {"lung": SQUARE}) for i, one in enumerate(labels)]
    write_latents(url, tiny_components(), model, samples=40, embeddings=True, notes=notes)
    return url


def checked(model: str, latents: str, conditions: dict):
    changes = {"name": "x", "model": model, "data.train": latents, "conditions": conditions}
    return check_data(parse_run(changed(RUN, changes)))


def test_a_run_learns_the_values_of_its_data(model: str, latents: str):
    conditions = {
        "lung": {"kind": "mask"},
        "years": {"kind": "number", "field": "age", "range": [20, 59]},
        "sex": {"kind": "category"},
        "note": {"kind": "category"},
    }
    found = checked(model, latents, conditions)
    assert found.conditions
    settings = found.conditions.settings
    assert found.conditions.samples == {"lung": 10, "years": 40, "sex": 40, "note": 5}
    assert settings.conditions["sex"].values == ["F", "M"] and settings.conditions["lung"].field == "lung"
    assert (settings.image_size, settings.latent_factor) == ((16, 16), 2)
    told = json.loads(json.dumps({"spec": found.run.model_dump(mode="json"), **_plain(found)}))
    assert _from_plain(told).conditions == found.conditions


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ({"lungs": {"kind": "mask"}}, "no mask 'lungs' for conditions.lungs; did you mean lung?"),
        ({"heart": {"kind": "mask"}}, "there are lung"),
        ({"ages": {"kind": "number", "range": [0, 9]}}, "no label 'ages' for conditions.ages; did you mean"),
        ({"age": {"kind": "number", "range": [30, 90]}}, "10 samples whose age is no number from 30 to 90"),
        ({"sex": {"kind": "number", "range": [0, 1]}}, "40 samples whose sex is no number from 0 to 1"),
        ({"sex": {"kind": "category", "values": ["F", "X"]}}, "whose sex is 'X'; there are F, M"),
    ],
)  # fmt: skip
def test_what_the_data_lack_is_refused(model: str, latents: str, conditions: dict, words: str):
    with pytest.raises(InputError) as caught:
        checked(model, latents, conditions)
    assert words in str(caught.value)


def test_latents_of_an_earlier_version_are_refused(model: str, tmp_path: Path):
    write_latents(str(tmp_path), tiny_components(), model, embeddings=True)
    with pytest.raises(InputError, match="which know no labels and masks; encode again"):
        checked(model, str(tmp_path), {"sex": {"kind": "category"}})


def test_rows_of_latents_have_their_conditions(tmp_path: Path):
    tensors = {name: torch.zeros(3, 4, 8, 8) for name in ("mean", "logvar")}
    notes = [
        LatentNote({"years": "50", "sex": "M"}, None, {"heart": SQUARE}),
        LatentNote({}, None, {"lung": SQUARE, "nodule": SQUARE[::-1]}),
        LatentNote({"sex": "F"}, None, {"lung": 255 - SQUARE}),
    ]
    path = tmp_path / "shard-00000.safetensors"
    path.write_bytes(to_bytes(tensors, ["a", "b", "c"], ["", "", ""], notes))
    reader = LatentReader(conditions=ConditionTargets(SETTINGS))
    first, second, third = (reader.row(path, row) for row in range(3))
    assert first[VALUE + "age"] == 0.5 and first[VALUE + "sex"] == 1 and not first[PRESENT + "type"]
    assert np.array_equal(second[VALUE + "type"], SQUARE > 0) and not second[PRESENT + "sex"]
    assert np.array_equal(second[VALUE + "nodule"], SQUARE[::-1] > 0)
    assert np.array_equal(third[VALUE + "type"], SQUARE == 0) and not third[PRESENT + "nodule"]
    path.write_bytes(to_bytes(tensors, ["a", "b", "c"], ["", "", ""]))
    with pytest.raises(InputError, match="without labels and masks"):
        LatentReader(conditions=ConditionTargets(SETTINGS)).row(path, 0)


# --- what a command line says


def test_values_are_those_that_the_model_knows():
    wish = Wish("a", parse_pairs(["age = 63", "sex=F"], "--condition"))
    assert values_of(wish, SETTINGS, "m") == {"age": 63.0, "sex": "F"}
    assert values_of(Wish("a"), None, "m") == {}


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (["years=3"], "--condition: m knows no condition 'years' It knows age (number), nodule (mask)"),
        (["Age=3"], "did you mean age?"),
        (["age=120"], "age: 120 is not in its range, 0 to 100"),
        (["age=old"], "age: 'old' is no number"),
        (["sex=female"], "sex cannot be 'female'; it can be F, M"),
        (["nodule=1"], "nodule is a mask; give it by --masks"),
        (["age"], "--condition 'age': write it as NAME=VALUE"),
        (["age=1", "age=2"], "age is given twice"),
    ],
)
def test_what_the_model_does_not_know_is_refused(pairs: list[str], words: str):
    with pytest.raises(InputError) as caught:
        values_of(Wish("a", parse_pairs(pairs, "--condition")), SETTINGS, "m")
    assert words in str(caught.value)


def test_a_model_without_conditions_is_given_none():
    with pytest.raises(InputError, match="m knows no conditions; leave age out"):
        values_of(Wish("a", {"age": "3"}), None, "m")
    with pytest.raises(InputError, match="'much' is no number"):
        parse_weights(["age=much"])


def test_a_table_asks_for_as_many_as_its_counts(tmp_path: Path):
    path = tmp_path / "prompts.csv"
    path.write_text('prompt,conditions,count\nOne.,age=3; sex=F,2\nTwo.,,\n"A, b.",sex=M,0\n')
    first, second, third = with_conditions(read_wishes(path), ["sex=M"])
    assert (
        first == second and first.conditions == {"age": "3", "sex": "F"} and third.conditions == {"sex": "M"}
    )
    assert [first.prompt, third.prompt] == ["One.", "Two."]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompts\nOne.\n", "its columns are prompts; a table of prompts has the column prompt"),
        ("prompt,age\nOne.,3\n", "its columns are prompt, age"),
        ("prompt,count\nOne.,two\n", "prompts.csv line 2: count is 'two'; write a whole number"),
        ("prompt,count\n,2\n", "prompts.csv line 2: no prompt"),
        ("prompt,count\nOne.,0\n", "no row that asks for an image"),
        ("prompt,count\nOne.,2000000\n", "more than 1,000,000 images"),
        ("prompt,conditions\nOne.,age\n", "prompts.csv line 2 'age': write it as NAME=VALUE"),
    ],
)
def test_a_table_that_asks_for_nothing_clear_is_refused(tmp_path: Path, text: str, words: str):
    (tmp_path / "prompts.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        read_wishes(tmp_path / "prompts.csv")
    assert words in str(caught.value)


def masks_in(folder: Path) -> Callable[[str, np.ndarray], None]:
    def write(name: str, mask: np.ndarray) -> None:
        folder.joinpath(name).write_bytes(write_png(mask))

    return write


def test_masks_come_from_a_folder_or_from_shards(tmp_path: Path):
    write = masks_in(tmp_path)
    write("b.mask.nodule.png", SQUARE)
    write("a.mask.lung.png", SQUARE)
    write("a.mask.nodule.png", SQUARE.T.copy())
    write("a.png", SQUARE)
    sets = read_mask_sets(str(tmp_path), SETTINGS, 9)
    assert [(one.key, sorted(one.masks)) for one in sets] == [("a", ["nodule", "type"]), ("b", ["nodule"])]
    assert len(read_mask_sets(str(tmp_path), SETTINGS, 1)) == 1
    writer = ShardWriter(open_storage(f"{tmp_path}/shards/train"), 10**6, "image", "train")
    for key in "cab":
        masks = {} if key == "a" else {"lung": SQUARE, "heart": SQUARE}
        writer.write(Sample(key, SQUARE, "", key, {}, masks))
    writer.finish()
    sets = read_mask_sets(f"{tmp_path}/shards/train", SETTINGS, 9)
    assert [(one.key, list(one.masks)) for one in sets] == [("c", ["type"]), ("b", ["type"])]
    assert checksum(sets) != checksum(sets[:1])


@pytest.mark.parametrize(
    ("name", "mask", "words"),
    [
        ("a.mask.lungs.png", SQUARE, "the model knows no mask 'lungs'; it knows lung, nodule"),
        ("a.mask.lung.png", SQUARE[:8], "16x8 pixels, where the model's images have 16x16"),
        ("a.mask.lung.png", np.zeros((16, 16, 3), np.uint8), "not a mask of 8 bits (a mask in colour)"),
        ("lung.png", SQUARE, "no mask of lung, nodule here; give shards"),
    ],
)  # fmt: skip
def test_masks_that_the_model_does_not_know_are_refused(
    tmp_path: Path, name: str, mask: np.ndarray, words: str
):
    masks_in(tmp_path)(name, mask)
    with pytest.raises(InputError) as caught:
        read_mask_sets(str(tmp_path), SETTINGS, 4)
    assert words in str(caught.value)


def test_a_model_that_takes_no_masks_says_so(tmp_path: Path):
    without = {name: one for name, one in SETTINGS.conditions.items() if one.kind != "mask"}
    with pytest.raises(InputError, match="the model has no condition that is a mask"):
        read_mask_sets(str(tmp_path), SETTINGS.model_copy(update={CONDITIONS: without}), 4)
