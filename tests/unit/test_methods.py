"""Which parameters each method trains, and what a new random start depends on."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_components

from medsd_ray.models.methods import METHODS, apply_method
from medsd_ray.spec import Method


@pytest.fixture(scope="module")
def components():
    return tiny_components()


def trained(module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", ["vae", "text_encoder", "unet"])
def test_frozen_trains_nothing_and_full_everything(components, name):
    module = components.modules()[name]
    before = {key: value.clone() for key, value in module.state_dict().items()}
    names = {key for key, _ in module.named_parameters()}
    adapted = apply_method(name, module, Method.full, seed=1)
    assert trained(adapted) == names and adapted.training
    adapted = apply_method(name, adapted, Method.frozen, seed=1)
    assert trained(adapted) == set() and not adapted.training
    assert all(torch.equal(value, before[key]) for key, value in adapted.state_dict().items())


def test_decoder_trains_what_follows_the_latent_alone(components):
    adapted = apply_method("vae", apply_method("vae", components.vae, Method.full, 0), Method.decoder, seed=1)
    parts = {name.split(".")[0] for name in trained(adapted)}
    assert parts == {"decoder", "post_quant_conv"}
    assert trained(adapted) == {n for n, _ in adapted.named_parameters() if n.startswith(("decoder.", "post_quant_conv."))}


@pytest.mark.parametrize("name", ["vae", "text_encoder", "unet"])
def test_scratch_draws_the_same_architecture_from_the_seed(components, name):
    module = components.modules()[name]
    state = torch.get_rng_state()
    first, again, other = (apply_method(name, module, Method.scratch, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)  # training's own random state goes on undisturbed
    assert trained(first) == {key for key, _ in module.named_parameters()}
    weights = [dict(m.named_parameters()) for m in (first, again, other, module)]
    assert [{k: v.shape for k, v in w.items()} for w in weights[:3]] == [{k: v.shape for k, v in weights[3].items()}] * 3
    matrices = [key for key, value in weights[0].items() if value.ndim > 1]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not any(torch.equal(weights[0][key], w[key]) for w in weights[2:] for key in matrices)


def test_components_of_one_run_do_not_share_their_random_start():
    first, second = (apply_method(name, tiny_components().unet, Method.scratch, 1) for name in ("unet", "vae"))
    assert not torch.equal(first.conv_in.weight, second.conv_in.weight)


def test_every_method_of_the_spec_is_in_the_registry():
    assert {method for _, method in METHODS} == set(Method)
