"""Which parameters each method trains, what a new random start depends on, and how a checkpoint is laid over
the base.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny import tiny_components
from torch import nn
from transformers import BertConfig, BertModel

from medsd_ray.errors import InputError
from medsd_ray.models.components import Components
from medsd_ray.models.methods.lora import TARGETS
from medsd_ray.models.methods.registry import METHODS, adapt, adaptation, recorded_settings
from medsd_ray.models.swapped_encoder import SwappedEncoder
from medsd_ray.models.tokens import token_ids
from medsd_ray.spec.components import Component, Method, TextEncoder, Unet, Vae
from medsd_ray.spec.conditions import CONDITIONS

PARTS = ["vae", "text_encoder", "unet"]
KINDS: dict[str, Any] = {"vae": Vae, "text_encoder": TextEncoder, "unet": Unet}
WORDS = [
    {"token": "<effusion>", "initializer": "pleural effusion"},
    {"token": "<side>", "initializer": "left"},
]
INVERSION = TextEncoder.model_validate({"method": "textual_inversion", "tokens": WORDS})
LORA = {"unet": Unet(method=Method.lora), "text_encoder": TextEncoder(method=Method.lora)}


def adapted(
    name: str, how: Component | str, seed: int = 0, components: Components | None = None
) -> nn.Module:
    components = components or tiny_components()
    adapt(components, name, KINDS[name](method=how) if isinstance(how, str) else how, seed)
    return getattr(components, name)


def trained(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", PARTS)
def test_frozen_trains_nothing_and_full_everything(name: str):
    components = tiny_components()
    module = components.modules()[name]
    before = {key: value.clone() for key, value in module.state_dict().items()}
    names = {key for key, _ in module.named_parameters()}
    assert trained(adapted(name, "full", components=components)) == names and module.training
    assert trained(adapted(name, "frozen", components=components)) == set() and not module.training
    assert all(
        torch.equal(value, before[key]) for key, value in components.modules()[name].state_dict().items()
    )


def test_decoder_trains_what_follows_the_latent_alone():
    names = trained(module := adapted("vae", "decoder"))
    assert names == {
        n for n, _ in module.named_parameters() if n.startswith(("decoder.", "post_quant_conv."))
    }
    assert {name.split(".")[0] for name in names} == {"decoder", "post_quant_conv"}


def test_cross_attention_trains_the_attention_to_the_text_alone():
    names = trained(module := adapted("unet", "cross_attention"))
    assert names == {n for n, _ in module.named_parameters() if ".attn2." in n}
    parts = {"to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias"}
    assert {name.partition(".attn2.")[2] for name in names} == parts


@pytest.mark.parametrize("name", LORA)
def test_lora_trains_two_matrices_beside_each_projection_and_starts_at_the_base(name: str):
    components = tiny_components()
    base = copy.deepcopy(components.modules()[name])
    module = adapted(name, LORA[name], components=components)
    projections = {n for n, _ in base.named_modules() if n.endswith(tuple(TARGETS[name]))}
    assert trained(module) == {f"{n}.lora_{half}.default.weight" for n in projections for half in "AB"}
    assert torch.equal(output(name, module, components.tokenizer), output(name, base, components.tokenizer))
    again, other = (adapted(name, LORA[name], seed) for seed in (0, 1))
    same = [
        all(torch.equal(a, b) for a, b in zip(module.parameters(), m.parameters(), strict=True))
        for m in (again, other)
    ]
    assert same == [True, False]


def output(name: str, module: Any, tokenizer: Any) -> torch.Tensor:
    """What a component gives for a fixed input."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        if name == "text_encoder":
            ids = token_ids(tokenizer, ["large <effusion> on the <side>", ""])
            return module.eval()(ids)[0]
        x, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 16, generator=generator)
        return module.eval()(x, torch.tensor([3, 900]), text).sample


@pytest.mark.parametrize(
    ("name", "how"), [*LORA.items(), ("text_encoder", INVERSION), ("unet", Unet(method=Method.full))]
)
def test_trained_weights_fold_into_a_component_like_any_other(name: str, how: Any):
    components = tiny_components()
    base, folded = copy.deepcopy(components), copy.deepcopy(components)
    module = adapted(name, how, components=components)
    generator = torch.Generator().manual_seed(1)
    weights = {}
    for key, parameter in module.named_parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
            weights[key] = parameter.detach().clone()
    adaptation(name, how).merge(folded, name, how, weights)
    result = folded.modules()[name]
    wanted = output(name, module, components.tokenizer)
    torch.testing.assert_close(output(name, result, folded.tokenizer), wanted, atol=1e-5, rtol=1e-5)
    if how is not INVERSION:
        assert not torch.allclose(wanted, output(name, base.modules()[name], base.tokenizer), atol=1e-3)
        assert result.state_dict().keys() == base.modules()[name].state_dict().keys()


def test_textual_inversion_adds_rows_and_leaves_all_else_as_it_was():
    components = tiny_components()
    base, folded = copy.deepcopy(components), copy.deepcopy(components)
    module: Any = adapted("text_encoder", INVERSION, components=components)
    assert trained(module) == {"embeddings.token_embedding.rows"}
    table = base.text_encoder.get_input_embeddings().weight
    ids = base.tokenizer("pleural effusion", add_special_tokens=False).input_ids
    rows = module.get_input_embeddings().rows
    torch.testing.assert_close(rows[0], table[ids].mean(0))
    adaptation("text_encoder", INVERSION).merge(
        folded, "text_encoder", INVERSION, {"embeddings.token_embedding.rows": rows}
    )
    for key, value in folded.text_encoder.state_dict().items():
        assert torch.equal(
            value[: len(table)] if "token_embedding" in key else value, base.text_encoder.state_dict()[key]
        ), key
    assert folded.text_encoder.config.vocab_size == len(table) + 2 == len(folded.tokenizer)
    assert folded.tokenizer("<side>", add_special_tokens=False).input_ids == [len(table) + 1]
    with pytest.raises(InputError, match="knows <effusion> already"):
        adapt(folded, "text_encoder", INVERSION, 0)


def test_one_word_is_exported_under_the_name_that_diffusers_looks_for():
    one = TextEncoder.model_validate({"method": "textual_inversion", "tokens": WORDS[:1]})
    (found,) = adaptation("text_encoder", one).files("text_encoder", one, {"rows": torch.ones(1, 4)}).items()
    assert found[0] == "learned_embeds.safetensors" and found[1]["<effusion>"].shape == (1, 4)


@pytest.mark.parametrize("name", PARTS)
def test_scratch_draws_the_same_architecture_from_the_seed(name: str):
    module = tiny_components().modules()[name]
    components = [tiny_components() for _ in range(3)]
    state = torch.get_rng_state()
    first, again, other = (
        adapted(name, "scratch", seed, c) for seed, c in zip((1, 1, 2), components, strict=True)
    )
    assert torch.equal(torch.get_rng_state(), state)  # training's own random state goes on undisturbed
    assert trained(first) == {key for key, _ in module.named_parameters()}
    weights = [dict(m.named_parameters()) for m in (first, again, other, module)]
    assert [{k: v.shape for k, v in w.items()} for w in weights[:3]] == [
        {k: v.shape for k, v in weights[3].items()}
    ] * 3
    matrices = [key for key, value in weights[0].items() if value.ndim > 1]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not any(torch.equal(weights[0][key], w[key]) for w in weights[2:] for key in matrices)


def test_components_of_one_run_do_not_share_their_random_start():
    components: Any = tiny_components()
    components.vae = components.unet
    first, second = (adapted(name, "scratch", 1, components) for name in ("unet", "vae"))
    assert not torch.equal(first.get_parameter("conv_in.weight"), second.get_parameter("conv_in.weight"))


def test_every_method_of_the_spec_is_in_the_registry():
    known = {
        (name, method)
        for name, kind in KINDS.items()
        for method in kind.model_fields["method"].annotation.__args__
    }
    known.add((CONDITIONS, Method.concat))  # of a section of its own
    assert known == METHODS.keys() and {method for _, method in known} == set(Method)


def test_a_swapped_encoder_is_not_for_the_methods_of_clip():
    components = tiny_components()
    bert = BertModel(
        BertConfig(
            vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
        ),
        add_pooling_layer=False,
    )
    components.text_encoder = SwappedEncoder(bert, pad_id=0, width=16)
    for how in (LORA["text_encoder"], INVERSION, TextEncoder(method=Method.scratch)):
        with pytest.raises(InputError, match="choose frozen, full or swap"):
            adapt(components, "text_encoder", how, 0)
    names = {name for name, _ in components.text_encoder.named_parameters()}
    assert trained(adapted("text_encoder", "full", components=components)) == names


def test_a_checkpoint_says_how_its_components_were_adapted():
    assert recorded_settings({"components": {"unet": "full"}}, "unet") == Unet(method=Method.full)
    spec = {"components": {"unet": {"method": "lora", "lora": {"rank": 2}}}}
    how: Any = recorded_settings({"components": {"unet": "lora"}, "spec": spec}, "unet")
    assert how.lora.rank == 2
    with pytest.raises(InputError, match="does not know"):
        recorded_settings({"components": {"unet": "magic"}}, "unet")
