"""Masks, numbers and categories on their way into the U-Net."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from conditioned import GIVEN, SETTINGS, SQUARE, conditioned
from diffusers import UNet2DConditionModel
from tiny import tiny_components

from medsd_ray.data.conditions import PRESENT, VALUE, ConditionTargets, condition_tensors
from medsd_ray.errors import InputError
from medsd_ray.models.conditions import AddedInput, ConditionModule, predict
from medsd_ray.models.conditions_card import conditions_section
from medsd_ray.models.load import load_components
from medsd_ray.models.methods.registry import adapt, adaptation
from medsd_ray.models.save import save_pipeline
from medsd_ray.spec.conditions import CONDITIONS
from medsd_ray.training.condition_dropout import dropped


def stacked(given: list[dict]) -> dict[str, torch.Tensor]:
    rows = [condition_tensors(SETTINGS, one) for one in given]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def noisy(count: int = len(GIVEN)) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return (
        torch.randn(count, 4, 8, 8, generator=rng),
        torch.tensor([3, 500, 900][:count]),
        torch.randn(count, 32, 16, generator=rng),
    )


@torch.no_grad()
def test_at_first_the_model_is_the_base_model_to_the_last_bit():
    plain, components = tiny_components(), conditioned(learnt=False)
    expected = predict(plain.unet, None, *noisy(), {})
    assert torch.equal(predict(components.unet, components.conditions, *noisy(), stacked(GIVEN)), expected)
    assert torch.equal(components.unet.conv_in.weight, plain.unet.conv_in.weight)


@torch.no_grad()
def test_each_condition_changes_what_is_predicted_and_a_null_one_is_not_an_empty_one():
    components = conditioned(learnt=True)
    empty = np.zeros_like(SQUARE)
    variants = [{}, {"age": 0}, {"age": 63}, {"sex": "F"}, {"sex": "M"}, {"type": empty}, {"type": SQUARE}]
    variants += [{"nodule": SQUARE}, {"nodule": empty}]
    z, t, text = noisy(1)
    found = [predict(components.unet, components.conditions, z, t, text, stacked([one])) for one in variants]
    for i, one in enumerate(found):
        assert all((one - other).abs().max() > 1e-5 for other in found[:i]), variants[i]
    unknown = predict(components.unet, components.conditions, z, t, text, stacked([{"sex": "other"}]))
    assert torch.equal(unknown, found[0])


@torch.no_grad()
def test_a_saved_model_is_one_of_plain_diffusers_and_loads_again_as_it_was(tmp_path: Path):
    components = conditioned(learnt=True)
    assert components.conditions
    save_pipeline(components, tmp_path / "model")
    values = stacked(GIVEN)
    expected = predict(components.unet, components.conditions, *noisy(), values)

    again = load_components(str(tmp_path / "model"))
    assert isinstance(again.unet.conv_in, AddedInput) and again.unet.config["in_channels"] == 4
    assert torch.equal(predict(again.unet, again.conditions, *noisy(), values), expected)

    plain = UNet2DConditionModel.from_pretrained(tmp_path / "model", subfolder="unet")
    z, t, text = noisy()
    channels = components.conditions.mask_channels(values)
    assert channels is not None and type(plain.conv_in) is torch.nn.Conv2d
    found = plain(
        torch.cat([z, channels], dim=1), t, text, class_labels=components.conditions.embedding(values)
    )
    torch.testing.assert_close(found.sample, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_cards_lines_predict_what_the_model_does(tmp_path: Path):
    components = conditioned(learnt=True)
    assert components.conditions
    save_pipeline(components, tmp_path)
    section = conditions_section(SETTINGS, (4, 8, 8))
    lines = section[section.index("    import") :].replace("this folder", str(tmp_path))
    given: dict = {"age": 63, "sex": "F", "type": SQUARE}
    lines = lines.replace("number('age', None", "number('age', 63").replace(
        "category('sex', None", "category('sex', 'F'"
    )
    lines = lines.replace("mask('type', None)", "mask('type', square)")
    z, t, text = noisy(1)
    names = {"z": z, "t": t, "text": text, "square": torch.from_numpy(SQUARE > 0)[None, None].float()}
    exec(textwrap.dedent(lines), names)
    expected = predict(components.unet, components.conditions, z, t, text, stacked([given]))
    torch.testing.assert_close(names["prediction"], expected, rtol=1e-4, atol=1e-5)
    assert "sex, one of F, M; type, a mask" in section


def test_a_damaged_folder_of_conditions_is_refused(tmp_path: Path):
    save_pipeline(conditioned(learnt=True), tmp_path)
    weights = tmp_path / CONDITIONS / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(InputError, match="conditions: cannot be loaded, is it damaged"):
        load_components(str(tmp_path), only=("unet",))
    (tmp_path / CONDITIONS / "config.json").write_text('{"conditions": {}}')
    with pytest.raises(InputError, match="does not know its conditions"):
        load_components(str(tmp_path), only=("unet",))


def test_trained_weights_are_merged_into_a_base_without_conditions():
    components, base = conditioned(learnt=True), tiny_components()
    assert components.conditions
    weights = {name: value.detach() for name, value in components.conditions.named_parameters()}
    adaptation(CONDITIONS, SETTINGS).merge(base, CONDITIONS, SETTINGS, weights)
    with torch.no_grad():
        found = predict(base.unet, base.conditions, *noisy(), stacked(GIVEN))
        expected = predict(components.unet, components.conditions, *noisy(), stacked(GIVEN))
    assert torch.equal(found, expected)


def test_a_conditioned_model_is_trained_further_with_the_same_conditions_alone():
    components = conditioned(learnt=True)
    before = components.conditions
    adapt(components, CONDITIONS, SETTINGS, seed=1)
    assert components.conditions is before
    fewer = {name: one for name, one in SETTINGS.conditions.items() if name != "age"}
    with pytest.raises(InputError, match=r"age \(number, 0 to 100\), .*sex \(category: F, M\)"):
        adapt(components, CONDITIONS, SETTINGS.model_copy(update={"conditions": fewer}), seed=1)


def test_the_order_in_which_conditions_are_named_changes_nothing():
    turned = SETTINGS.model_copy(update={"conditions": dict(reversed(SETTINGS.conditions.items()))})
    first, second = (ConditionModule(one, tiny_components().unet) for one in (SETTINGS, turned))
    assert list(first.state_dict()) == list(second.state_dict())


def test_a_sample_is_read_by_the_fields_of_its_shards():
    row = ConditionTargets(SETTINGS).row({"years": "25", "sex": " ", "age": 1}, {"lung": SQUARE})
    assert row[VALUE + "age"].item() == 0.25 and row[PRESENT + "age"]
    assert not row[PRESENT + "sex"] and not row[PRESENT + "nodule"]
    assert row[PRESENT + "type"] and row[VALUE + "type"].sum() == 25 and row[VALUE + "type"].max() == 1
    for labels, masks, words in (
        ({"years": "101"}, {}, "age: 101 is not in its range, 0 to 100"),
        ({"years": "old"}, {}, "age: 'old' is no number"),
        ({"years": "nan"}, {}, "age: nan is not in its range"),
        ({}, {"lung": SQUARE[:8]}, "type: a mask of 8x16 pixels where images are 16x16"),
    ):
        with pytest.raises(ValueError, match=words):
            ConditionTargets(SETTINGS).row(labels, masks)


def test_conditions_are_dropped_by_position_all_all_but_one_or_each_for_itself():
    positions = torch.arange(1500)
    lost = dropped(3, positions, 3, 0.1, "train")
    assert torch.equal(lost[500:600], dropped(3, positions[500:600], 3, 0.1, "train"))
    counts = torch.bincount(lost.sum(dim=1), minlength=4) / len(lost)
    # All: 0.1 + 0.8·0.1³; all but one: 0.1 + 0.8·3·0.1²·0.9; one: 0.8·3·0.1·0.9²; none: 0.8·0.9³.
    expected = torch.tensor([0.8 * 0.729, 0.8 * 0.243, 0.1 + 0.8 * 0.027, 0.1 + 0.8 * 0.001])
    torch.testing.assert_close(counts, expected, atol=0.04, rtol=0)
    kept = (~lost[lost.sum(dim=1) == 2]).float().mean(dim=0)
    torch.testing.assert_close(kept, torch.full((3,), 1 / 3), atol=0.12, rtol=0)
    one = dropped(3, positions, 1, 0.1, "train")
    assert abs(one.float().mean() - 0.1) < 0.03 and torch.equal(one[:, 0], lost.all(dim=1) & one[:, 0])
    assert not dropped(3, positions, 3, 0.0, "train").any()
