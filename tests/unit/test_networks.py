"""Networks of the libraries: of the right outputs, without statistics of the batch, refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medsd_ray.errors import InputError
from medsd_ray.models.networks.libraries import Task
from medsd_ray.models.networks.task_network import load_network, merge
from medsd_ray.spec.tasks import Network

SMALL: dict[str, Any] = {"block_config": [2, 2], "growth_rate": 4, "init_features": 8}
DENSE: dict[str, Any] = {"library": "monai", "name": "DenseNet", "arguments": SMALL}
UNET: dict[str, Any] = {
    "library": "monai", "name": "UNet", "arguments": {"channels": [8, 16], "strides": [2]}
}  # fmt: skip


@pytest.mark.parametrize(
    ("task", "network"),
    [
        ("classifier", DENSE),
        ("classifier", {"library": "timm", "name": "resnet10t"}),
        ("segmenter", UNET),
        ("segmenter", {"library": "monai", "name": "SegResNet", "arguments": {"init_filters": 8}}),
        ("segmenter", {"library": "smp", "name": "Unet", "arguments": {"encoder_name": "tu-resnet10t"}}),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else value,
)
def test_a_network_has_as_many_outputs_as_asked_for_and_no_batch_statistics(task: Task, network: dict):
    model = load_network(Network(**network), task, outputs=3, seed=0)
    images = torch.rand(2, 3, 64, 64)
    alone, together = model.network(images[:1]), model.network(images)
    assert together.shape == ((2, 3) if task == "classifier" else (2, 3, 64, 64))
    torch.testing.assert_close(alone[0], together[0], atol=1e-4, rtol=1e-3)  # in training mode
    assert model.modules() == {task: model.network}


def test_random_weights_follow_from_the_seed():
    first, same, other = (load_network(Network(**DENSE), "classifier", 2, seed) for seed in (3, 3, 4))
    for name, weight in first.network.state_dict().items():
        assert torch.equal(weight, same.network.state_dict()[name])
    assert not torch.equal(first.network(torch.ones(1, 3, 32, 32)), other.network(torch.ones(1, 3, 32, 32)))


def test_what_takes_the_place_of_batch_normalisation_is_chosen():
    kinds = {
        choice: {
            (norm.num_groups, norm.num_channels)
            for norm in load_network(
                Network(**DENSE, normalisation=choice), "classifier", 2, 0
            ).network.modules()
            if isinstance(norm, nn.GroupNorm)
        }
        for choice in ("group", "instance")
    }
    assert all(groups == channels for groups, channels in kinds["instance"])
    assert (2, 8) in kinds["group"] and all(channels >= 4 * groups for groups, channels in kinds["group"])


def test_trained_weights_are_put_into_a_network():
    trained, fresh = (load_network(Network(**DENSE), "classifier", 2, seed) for seed in (1, 2))
    weights = {f"classifier.{name}": p.detach() for name, p in trained.network.named_parameters()}
    merged, image = merge(fresh, weights), torch.rand(1, 3, 32, 32)
    assert not merged.network.training
    torch.testing.assert_close(merged.network(image), trained.network.eval()(image))


@pytest.mark.parametrize(
    ("task", "network", "words"),
    [
        ("classifier", DENSE | {"name": "DenseNet12"}, "did you mean DenseNet121"),
        ("classifier", DENSE | {"arguments": {"growthrate": 3}}, "did you mean growth_rate"),
        ("classifier", DENSE | {"arguments": {"in_channels": 1}}, "given by the run"),
        ("segmenter", UNET | {"arguments": {"channels": [8, 16, 32], "strides": [2]}}, "makes no UNet"),
        ("segmenter", {"library": "timm", "name": "resnet18"}, "encoder_name: tu-resnet18"),
        ("classifier", {"library": "smp", "name": "Unet"}, "choose monai, timm or transformers"),
        ("classifier", {"library": "timm", "name": "resnet1"}, "timm has no 'resnet1'"),
    ],
)
def test_a_network_that_cannot_be_made_is_refused(task: Task, network: dict, words: str):
    with pytest.raises(InputError, match=words) as refused:
        load_network(Network(**network), task, outputs=2, seed=0)
    assert "\n" not in str(refused.value)
