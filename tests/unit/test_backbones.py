"""Networks of the library transformers: the features of the very model in the folder, and a head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import vision_models

from medsd_ray.errors import InputError
from medsd_ray.models.networks.libraries import Task
from medsd_ray.models.networks.task_network import TaskModel, load_network
from medsd_ray.spec.tasks import Network

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def load(weights: Path | str, task: Task = "classifier", **settings: Any) -> TaskModel:
    network = Network(library="transformers", weights=str(weights), **settings)
    return load_network(network, task, outputs=3, seed=0)


@pytest.mark.parametrize("kind", vision_models.KINDS)
def test_a_vision_model_of_a_folder_classifies_and_segments(tmp_path: Path, kind: str):
    saved = vision_models.save(kind, tmp_path / kind)
    classifier, segmenter = load(tmp_path / kind), load(tmp_path / kind, "segmenter")
    for model, shape in ((classifier, (2, 3)), (segmenter, (2, 3, 32, 32))):
        alone, together = model.network(IMAGES[:1]), model.network(IMAGES)
        assert together.shape == shape
        torch.testing.assert_close(alone[0], together[0], atol=1e-4, rtol=1e-3)  # in training mode
        assert "tensors; head.weight, head.bias are new; images stay in [-1, 1]" in model.said
    with torch.no_grad():
        expected = saved(pixel_values=IMAGES)
        features, pooled = classifier.network.eval().body.backbone(IMAGES)  # type: ignore[union-attr,operator]
    hidden = expected.last_hidden_state
    if hidden.ndim == 3:  # patches stand last, row by row
        patches = features.shape[2] * features.shape[3]
        hidden = hidden[:, -patches:].transpose(1, 2).unflatten(2, features.shape[2:])
    torch.testing.assert_close(features, hidden, atol=1e-5, rtol=1e-4)
    wanted = expected.last_hidden_state[:, 0] if kind == "vit" else expected.pooler_output.flatten(1)
    torch.testing.assert_close(pooled, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", [24, 48])
@pytest.mark.parametrize("kind", ["vit", "dinov2_with_registers", "swin", "convnext"])
def test_images_of_another_size_are_taken(tmp_path: Path, kind: str, side: int):
    vision_models.save(kind, tmp_path)
    images = torch.rand(1, 3, side, side)
    assert load(tmp_path, "segmenter").network(images).shape == (1, 3, side, side)
    assert load(tmp_path).network(images).shape == (1, 3)


def test_images_are_scaled_to_the_size_that_a_model_is_fixed_to(tmp_path: Path):
    """As every small model here interpolates, one is told not to."""
    vision_models.save("vit", tmp_path)
    model = load(tmp_path, "segmenter")
    backbone: Any = model.network.body.backbone
    backbone.own, backbone.side = {}, 32
    assert model.network(torch.rand(1, 3, 48, 48)).shape == (1, 3, 48, 48)


def test_a_segmenter_sees_where_things_are(tmp_path: Path):
    """A change of one corner's pixels moves that corner's features most: the map is not transposed."""
    vision_models.save("convnext", tmp_path)
    backbone: Any = load(tmp_path, "segmenter").network.eval().body.backbone
    changed = IMAGES[:1].clone()
    changed[..., :8, 24:] = 1.0  # upper right
    with torch.no_grad():
        change = (backbone(changed)[0] - backbone(IMAGES[:1])[0]).abs().sum(1)[0]
    assert change.argmax() == change.shape[1] - 1


def test_arguments_are_of_the_configuration(tmp_path: Path):
    vision_models.save("vit", tmp_path)
    plain, dropped = load(tmp_path), load(tmp_path, arguments={"hidden_dropout_prob": 0.5})
    assert not torch.allclose(plain.network(IMAGES), dropped.network(IMAGES))
    torch.testing.assert_close(plain.network.eval()(IMAGES), dropped.network.eval()(IMAGES))
    with pytest.raises(InputError, match=r"configuration of vit has no 'hidden_dropout'; did you mean"):
        load(tmp_path, arguments={"hidden_dropout": 0.5})


@pytest.mark.parametrize("task", ["classifier", "segmenter"])
def test_the_encoder_of_a_vae_is_a_backbone(task: Task):
    from medsd_ray.models.load import load_components

    model = load("medsd-small", task)
    assert model.network(IMAGES).shape == ((2, 3) if task == "classifier" else (2, 3, 32, 32))
    vae: Any = load_components("medsd-small", only=("vae",)).vae
    seen: list[torch.Tensor] = []
    vae.encoder.conv_out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    vae.encode(IMAGES)
    torch.testing.assert_close(model.network.body.backbone(IMAGES)[0], seen[0])  # type: ignore[union-attr,operator]
    assert "images stay in [-1, 1]" in model.said
    with pytest.raises(InputError, match="takes none; leave them out"):
        load("medsd-small", arguments={"dropout": 0.1})


def test_images_are_normalised_as_the_processor_says(tmp_path: Path):
    saved = vision_models.save(
        "dinov2", tmp_path, processor={"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    )
    model = load(tmp_path)
    assert model.said.endswith("images are normalised by mean 0.5/0.4/0.3, std 0.2/0.3/0.4")
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    pixels = ((IMAGES + 1) / 2 - mean) / std
    network: Any = model.network.eval()
    with torch.no_grad():
        expected = network.body.head(saved(pixel_values=pixels).pooler_output)
        torch.testing.assert_close(network(IMAGES), expected, atol=1e-5, rtol=1e-4)


def test_the_vision_part_of_a_model_of_images_and_texts_is_taken(tmp_path: Path):
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    text = {k: v for k, v in vision_models.TOKENS.items() if "size" not in k} | {
        "hidden_size": 16, "intermediate_size": 16, "vocab_size": 9, "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    both = CLIPConfig(
        text_config=CLIPTextConfig(**text),  # type: ignore[arg-type]
        vision_config=CLIPVisionConfig(**vision_models.TOKENS),  # type: ignore[arg-type]
    )
    clip: Any = CLIPModel(both).eval()
    clip.save_pretrained(tmp_path)
    model = load(tmp_path)
    assert "head.weight, head.bias are new" in model.said
    backbone: Any = model.network.eval().body.backbone
    with torch.no_grad():
        expected = clip.vision_model(pixel_values=IMAGES).pooler_output
        torch.testing.assert_close(backbone(IMAGES)[1], expected, atol=1e-5, rtol=1e-4)


def test_a_model_that_was_saved_with_a_head_lends_its_backbone(tmp_path: Path):
    from transformers import ViTConfig, ViTForImageClassification

    saved: Any = ViTForImageClassification(ViTConfig(**vision_models.TOKENS)).eval()  # type: ignore[arg-type]
    saved.save_pretrained(tmp_path)
    backbone: Any = load(tmp_path).network.eval().body.backbone
    with torch.no_grad():
        expected = saved.vit(pixel_values=IMAGES).last_hidden_state[:, 0]
        torch.testing.assert_close(backbone(IMAGES)[1], expected, atol=1e-5, rtol=1e-4)


def text_model(folder: Path) -> None:
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=8)).save_pretrained(folder)  # fmt: skip


def foreign_code(folder: Path) -> None:
    vision_models.save("vit", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('it was run')")


def damaged(folder: Path) -> None:
    vision_models.save("vit", folder)
    (folder / "model.safetensors").write_bytes(b"\0" * 100)


def no_configuration(folder: Path) -> None:
    vision_models.save("vit", folder)
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (text_model, "bert is no vision model"),
        (foreign_code, "brings code of its own"),
        (damaged, "not a vision model with safetensors weights"),
        (no_configuration, "no config.json of a model of transformers"),
    ],
)
def test_what_is_no_vision_model_is_refused(tmp_path: Path, make: Any, words: str):
    make(tmp_path)
    with pytest.raises(InputError, match=words) as refused:
        load(tmp_path)
    assert "\n" not in str(refused.value)
