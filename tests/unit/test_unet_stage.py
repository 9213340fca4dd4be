"""A micro batch of U-Net and text encoder: what is encoded once gives what encoding it for each sample
gives.
"""

from __future__ import annotations

import pytest
import torch
from specs import RUN, changed
from torch import Tensor

from medsd_ray.base_model.architecture import build_small
from medsd_ray.models.tokens import token_ids
from medsd_ray.spec.load import parse_run
from medsd_ray.training.stages.unet import UnetStage

CAPTIONS = [
    "a large left effusion",
    "no effusion",
    "a large left effusion",
    "no effusion",
    "a large left effusion",
]


@pytest.fixture(scope="module")
def stage() -> UnetStage:
    trained = {"components": {"unet": "full", "text_encoder": "full"}, "objective.conditioning_dropout": 0.0}
    run = parse_run(changed(RUN, {"name": "small"} | trained))
    components = build_small(0)
    for module in (components.unet, components.text_encoder):
        module.requires_grad_(True).train()
    return UnetStage(components, run, None, scaling_factor=1.0)


@pytest.fixture
def sample(stage: UnetStage) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    count = len(CAPTIONS)
    moments = {name: torch.randn(count, 8, 8, 8, generator=rng) for name in ("mean", "logvar")}
    return moments | {"input_ids": token_ids(stage.tokenizer, CAPTIONS), "positions": torch.arange(count)}


def gradient(stage: UnetStage, batch: dict[str, Tensor]) -> tuple[float, Tensor]:
    """The loss, and its gradient by the token embeddings, which all captions go through."""
    stage.zero_grad()
    loss = stage(batch)
    loss.backward()
    (found,) = (p.grad for name, p in stage.named_parameters() if name.endswith("token_embedding.weight"))
    assert found is not None
    return loss.item(), found


def test_a_caption_is_encoded_once_for_all_samples_that_have_it(stage: UnetStage, sample: dict[str, Tensor]):
    batch = stage.prepare(sample, "train")
    assert len(batch["input_ids"]) == 2
    assert torch.equal(batch["input_ids"][batch["caption"]], sample["input_ids"])
    apart = batch | {"input_ids": sample["input_ids"], "caption": torch.arange(len(CAPTIONS))}
    loss, found = gradient(stage, batch)
    expected_loss, expected = gradient(stage, apart)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_dropped_captions_are_one_too(stage: UnetStage, sample: dict[str, Tensor]):
    objective = stage.run.objective.model_copy(update={"conditioning_dropout": 0.999999})
    dropping = UnetStage(
        build_small(0), stage.run.model_copy(update={"objective": objective}), None, scaling_factor=1.0
    )
    batch = dropping.prepare(sample, "train")
    assert torch.equal(batch["input_ids"], token_ids(stage.tokenizer, [""]))
    assert batch["caption"].tolist() == [0] * len(CAPTIONS)


def test_validation_is_the_same_in_runs_of_other_seeds(stage: UnetStage, sample: dict[str, Tensor]):
    other = UnetStage(build_small(0), stage.run.model_copy(update={"seed": 7}), None, scaling_factor=1.0)
    one, two = (s.prepare(sample, "validation") for s in (stage, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert one["timesteps"].tolist() == [62, 187, 312, 437, 562]
    one, two = (s.prepare(sample, "train") for s in (stage, other))
    assert not torch.equal(one["noisy"], two["noisy"])
