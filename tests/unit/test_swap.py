"""Text encoders from elsewhere: which are taken, from where, and what a pipeline's folder keeps of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_components
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, T5Config, T5Model

from medsd_ray.errors import InputError
from medsd_ray.models.load import load_components
from medsd_ray.models.methods import swap
from medsd_ray.models.methods.registry import adapt
from medsd_ray.models.save import save_pipeline
from medsd_ray.models.tokens import token_ids
from medsd_ray.spec.components import Method, Swap, TextEncoder
from medsd_ray.storage import open_storage

WORDS = ["[PAD]", "[UNK]", "large", "left", "pleural", "effusion"]


def write_encoder(folder: Path, model: Any = None, **tokenizer: Any) -> str:
    """A small BERT with its tokenizer of whole words."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=12, hidden_dropout_prob=0.0, **sizes)
    (model or BertModel(config)).save_pretrained(folder)
    words = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    options = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_max_length": 10} | tokenizer
    PreTrainedTokenizerFast(tokenizer_object=words, **options).save_pretrained(folder)
    return str(folder)


def swapped(model: str, **how: Any) -> Any:
    """Components with the encoder in, and how."""
    components = tiny_components()
    adapt(components, "text_encoder", TextEncoder(method=Method.swap, swap=Swap(model=model, **how)), 0)
    return components


def trained(components: Any) -> set[str]:
    return {name for name, p in components.text_encoder.named_parameters() if p.requires_grad}


def test_the_projection_learns_and_the_encoder_only_where_the_spec_says_so(tmp_path: Path):
    encoder = write_encoder(tmp_path)
    components = swapped(encoder)
    assert trained(components) == {"projection.weight", "projection.bias", "norm.weight", "norm.bias"}
    assert not components.text_encoder.encoder.training
    both = swapped(encoder, train=True)
    assert trained(both) == {name for name, _ in both.text_encoder.named_parameters()}
    loss = both.text_encoder(token_ids(both.tokenizer, ["large effusion"]))[0].square().sum()
    loss.backward()
    assert all(
        p.grad is not None for p in both.text_encoder.parameters()
    )  # ZeRO 3 waits for each: no pooler is left
    for name, p in components.text_encoder.named_parameters():
        assert torch.equal(p, both.text_encoder.get_parameter(name)), name  # drawn from the seed


def test_captions_have_the_encoders_own_tokens_and_length_and_padding_does_not_matter(tmp_path: Path):
    components = swapped(write_encoder(tmp_path), max_length=4)
    ids = token_ids(components.tokenizer, ["large left effusion " * 5, "effusion"])
    assert ids.tolist() == [[2, 3, 5, 2], [5, 0, 0, 0]]
    longer = swapped(str(tmp_path))
    assert token_ids(longer.tokenizer, ["effusion"]).shape == (1, 10)
    one, other = (c.text_encoder(token_ids(c.tokenizer, ["effusion"]))[0] for c in (components, longer))
    assert one.shape == (1, 4, 16)
    torch.testing.assert_close(one[:, 0], other[:, 0])


def test_a_pipelines_folder_keeps_it(tmp_path: Path):
    components = swapped(write_encoder(tmp_path / "encoder"))
    save_pipeline(components, tmp_path / "pipeline")
    loaded = load_components(str(tmp_path / "pipeline"))
    assert isinstance(loaded.text_encoder, swap.SwappedEncoder)
    ids = token_ids(components.tokenizer, ["large left pleural effusion"])
    assert torch.equal(token_ids(loaded.tokenizer, ["large left pleural effusion"]), ids)
    components.text_encoder.eval()
    assert torch.equal(loaded.text_encoder(ids)[0], components.text_encoder(ids)[0])


def test_an_encoder_on_s3_is_the_one_in_a_folder(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEDSD_CACHE", str(tmp_path / "cache"))
    folder = write_encoder(tmp_path / "encoder")
    open_storage(s3).upload_tree(Path(folder))
    hows = [TextEncoder(method=Method.swap, swap=Swap(model=model)) for model in (folder, s3)]
    assert swap.source_fingerprint(hows[0]) == swap.source_fingerprint(hows[1])
    one, other = (swapped(model).text_encoder.state_dict() for model in (folder, s3))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("options", "how", "words"),
    [
        ({}, {"max_length": 13}, "gives no hidden state for each of 13 tokens"),
        (
            {"model_max_length": int(1e30)},
            {},
            r"no greatest length; set components\.text_encoder\.swap\.max_length",
        ),
        ({"pad_token": None}, {}, "no padding token"),
        (
            {"model": T5Model(T5Config(vocab_size=6, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))},
            {},
            "gives no hidden state",
        ),
    ],
    ids=["too long", "no length", "no padding", "encoder and decoder"],
)
def test_what_is_no_text_encoder_is_refused(tmp_path: Path, options: dict, how: dict, words: str):
    with pytest.raises(InputError, match=words) as caught:
        swapped(write_encoder(tmp_path, **options), **how)
    assert "\n" not in str(caught.value)


def with_code(folder: Path, file: str, own: dict[str, Any]) -> Path:
    """An encoder's folder whose configuration asks for code beside it; a file `ran` tells that it was run."""
    write_encoder(folder)
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | own))
    ran = folder.parent / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\nC = M = T = object\n")
    return ran


def test_a_model_that_needs_code_of_its_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = {"model_type": "of_its_own", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}
    ran = with_code(tmp_path / "encoder", "config.json", own)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    with pytest.raises(InputError, match=r"brings code of its own .* which medsd never runs"):
        swapped(str(tmp_path / "encoder"))
    assert not ran.exists()


@pytest.mark.parametrize(
    ("file", "own"),
    [
        ("config.json", {"auto_map": {"AutoModel": "own.M"}}),
        ("tokenizer_config.json", {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["own.T", None]}}),
    ],
)
def test_code_beside_a_model_that_transformers_knows_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, own: dict[str, Any]
):
    ran = with_code(tmp_path / "encoder", file, own)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    assert swapped(str(tmp_path / "encoder")).text_encoder is not None
    assert not ran.exists()


def test_a_folder_that_is_none_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"no config\.json here"):
        swapped(str(tmp_path))
    with pytest.raises(InputError, match="no such model"):
        swapped(str(tmp_path / "nowhere"))
    folder = write_encoder(tmp_path / "encoder")
    weights = Path(folder) / "model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(InputError, match="not a text encoder with safetensors weights"):
        swapped(folder)
