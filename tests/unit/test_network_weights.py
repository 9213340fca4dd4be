"""Weights in networks: under whose names they come, what they leave new, what of them is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import vision_models
from safetensors.torch import save_file
from torch import Tensor, nn

from medsd_ray.errors import InputError
from medsd_ray.models.networks.libraries import Task
from medsd_ray.models.networks.normalisation import KeptStatistics
from medsd_ray.models.networks.task_network import TaskModel, load_network, merge
from medsd_ray.models.resolve import weights_fingerprint
from medsd_ray.spec.tasks import Network
from medsd_ray.storage import open_storage

DENSE: dict[str, Any] = {
    "library": "monai",
    "name": "DenseNet",
    "arguments": {"block_config": [2, 2], "growth_rate": 4, "init_features": 8},
}
RESNET: dict[str, Any] = {"library": "timm", "name": "test_resnet"}
EFFICIENT: dict[str, Any] = {"library": "timm", "name": "test_efficientnet"}
VIT: dict[str, Any] = {"library": "timm", "name": "test_vit"}
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def plain(network: dict[str, Any], outputs: int, seed: int = 5) -> nn.Module:
    """The library's own network with random weights and statistics, as if it were trained."""
    import timm
    from monai.networks import nets

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if network["library"] == "timm":
            made: nn.Module = timm.create_model(network["name"], num_classes=outputs)
        else:
            made = getattr(nets, network["name"])(
                spatial_dims=2, in_channels=3, out_channels=outputs, **network["arguments"]
            )
        for name, tensor in made.state_dict().items():
            if name.endswith(("running_mean", "running_var")):
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return made.eval()


def saved(folder: Path, state: dict[str, Tensor], config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({name: t.contiguous() for name, t in state.items()}, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def load(
    network: dict[str, Any], weights: Path, task: Task = "classifier", outputs: int = 3, **settings: Any
) -> TaskModel:
    return load_network(Network(**network, weights=str(weights), **settings), task, outputs, seed=0)


def trained(model: TaskModel) -> set[str]:
    return {name for name, p in model.network.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("prefix", ["", "encoder.", "model.", "network.", "module.encoder."])
@pytest.mark.parametrize("network", [DENSE, RESNET, EFFICIENT], ids=lambda network: network["name"])
def test_weights_give_the_network_that_was_saved(tmp_path: Path, network: dict, prefix: str):
    source = plain(network, outputs=3)
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    state |= {"projector.weight": torch.zeros(3, 3)} if prefix else {}
    model = load(network, saved(tmp_path, state))
    count = len([name for name in source.state_dict() if not name.endswith("num_batches_tracked")])
    assert model.said.startswith(f"weights: {count} of {count} tensors; images")
    pixels = IMAGES
    if network["library"] == "timm":  # with its own normalisation
        cfg: Any = source.pretrained_cfg
        mean, std = (torch.tensor(cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        pixels = ((IMAGES + 1) / 2 - mean) / std
    torch.testing.assert_close(model.network(IMAGES), source(pixels), atol=1e-4, rtol=1e-3)


def test_what_timm_has_after_a_normalisation_in_one_layer_stays_there():
    made = load_network(Network(**EFFICIENT), "classifier", 3, seed=0).network
    followed = [module for module in made.modules() if hasattr(module, "act")]
    activations = {type(module.act) for module in followed if isinstance(module, nn.GroupNorm)}
    assert activations == {nn.Identity, nn.SiLU}


def test_an_encoder_of_a_segmenter_starts_from_the_weights_of_a_classifier(tmp_path: Path):
    network = {"library": "smp", "name": "Unet", "arguments": {"encoder_name": "tu-test_resnet"}}
    source = plain(RESNET, outputs=10)
    folder = saved(tmp_path, source.state_dict(), {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}})
    model = load(network, folder, "segmenter")
    assert "decoder.blocks.0" in model.said and "mean 0.5/0.5/0.5, std 0.25/0.25/0.25" in model.said
    encoder: Any = model.network.body.encoder
    with torch.no_grad():
        deepest, expected = encoder(IMAGES)[-1], source.forward_features(IMAGES)  # type: ignore[operator]
    torch.testing.assert_close(deepest, expected, atol=1e-4, rtol=1e-3)


def test_a_head_for_other_classes_is_new_and_follows_from_the_seed(tmp_path: Path):
    source = plain(DENSE, outputs=7)
    folder = saved(tmp_path, source.state_dict())
    first, same = load(DENSE, folder), load(DENSE, folder)
    assert "class_layers.out.weight, class_layers.out.bias are new" in first.said
    for name, tensor in first.network.body.state_dict().items():
        expected = source.state_dict()[name] if "out" not in name else same.network.body.state_dict()[name]
        assert torch.equal(tensor, expected)


def test_with_weights_no_result_depends_on_the_batch_and_statistics_stay(tmp_path: Path):
    model = load(RESNET, saved(tmp_path, plain(RESNET, 3).state_dict()))
    before = {n: t.clone() for n, t in model.network.named_buffers()}
    assert any(isinstance(module, KeptStatistics) for module in model.network.modules())
    alone, together = model.network.train()(IMAGES[:1]), model.network(IMAGES)
    torch.testing.assert_close(alone[0], together[0], atol=1e-4, rtol=1e-3)
    together.sum().backward()
    assert all(torch.equal(t, before[n]) for n, t in model.network.named_buffers())
    assert all(p.grad is not None for p in model.network.parameters())


def test_statistics_in_half_precision_give_half_precision(tmp_path: Path):
    model = load(RESNET, saved(tmp_path, plain(RESNET, 3).state_dict()))
    whole = model.network(IMAGES)
    for parameter in model.network.parameters():
        parameter.data = parameter.data.bfloat16()
    half = model.network(IMAGES.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), whole, atol=0.05, rtol=0.05)


def test_frozen_trains_what_is_new_and_drops_nothing_of_the_rest(tmp_path: Path):
    network = DENSE | {"arguments": DENSE["arguments"] | {"dropout_prob": 0.5}}
    model = load(network, saved(tmp_path, plain(network, 7).state_dict()), method="frozen")
    assert trained(model) == {"body.class_layers.out.weight", "body.class_layers.out.bias"}
    torch.testing.assert_close(model.network(IMAGES), model.network(IMAGES))  # without dropout
    modes = {name: module.training for name, module in model.network.train().named_modules()}
    assert modes["body.class_layers"] and not modes["body.features"] and not modes[""]
    assert not any(module.training for module in model.network.eval().modules())


def test_lora_trains_linear_layers_and_the_head_and_is_merged_for_use(tmp_path: Path):
    folder = saved(tmp_path, plain(VIT, 7).state_dict())
    images = torch.rand(2, 3, 160, 160)
    full, model = (
        load(VIT, folder, **settings)
        for settings in ({}, {"method": "lora", "lora": {"rank": 2, "alpha": 4.0}})
    )
    names = trained(model)
    assert {"body.head.weight", "body.head.bias"} < names
    assert all("lora_" in name or name.startswith("body.head.") for name in names)
    assert any("attn.qkv.lora_A" in name for name in names) and any("mlp.fc1.lora_B" in n for n in names)
    shapes = {tuple(p.shape) for n, p in model.network.named_parameters() if "lora_A" in n}
    assert {shape[0] for shape in shapes} == {2}
    torch.testing.assert_close(model.network(images), full.network(images))  # B starts from zero

    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if name in names:
                parameter.add_(torch.randn_like(parameter) * 0.02)
    weights = {
        f"classifier.{n}": p.detach().clone() for n, p in model.network.named_parameters() if n in names
    }
    used = merge(load(VIT, folder, method="lora", lora={"rank": 2, "alpha": 4.0}), weights)
    assert used.network.body.state_dict().keys() == full.network.body.state_dict().keys()
    assert not torch.allclose(used.network(images), full.network.eval()(images), atol=1e-3)
    torch.testing.assert_close(used.network(images), model.network.eval()(images), atol=1e-4, rtol=1e-3)


def test_methods_with_nothing_to_train_are_refused(tmp_path: Path):
    whole = saved(tmp_path / "whole", plain(DENSE, 3).state_dict())
    with pytest.raises(InputError, match="frozen trains what the weights do not have"):
        load(DENSE, whole, method="frozen")
    network = {"library": "monai", "name": "UNet", "arguments": {"channels": [8, 16], "strides": [2]}}
    convolutions = saved(tmp_path / "convolutions", plain(network, 3).state_dict())
    with pytest.raises(InputError, match="lora is for linear layers"):
        load(network, convolutions, "segmenter", method="lora")


def test_weights_of_another_network_are_refused_with_the_names_of_both(tmp_path: Path):
    folder = saved(tmp_path, plain(DENSE, 3).state_dict())
    with pytest.raises(InputError, match=r"it has 0% .*features.*where the network has conv1\.0\.weight"):
        load(RESNET, folder)


def test_processors_of_every_kind_are_read(tmp_path: Path):
    state = plain(DENSE, 3).state_dict()
    assert "images stay in [-1, 1]" in load(DENSE, saved(tmp_path / "none", state)).said
    for name, values in {
        "one": {"image_mean": [0.4], "image_std": [0.2]},
        "off": {"do_normalize": False, "image_mean": [9, 9, 9], "image_std": [9, 9, 9]},
    }.items():
        folder = saved(tmp_path / name, state)
        (folder / "preprocessor_config.json").write_text(json.dumps(values))
        wanted = "mean 0.4/0.4/0.4, std 0.2/0.2/0.2" if name == "one" else "mean 0/0/0, std 1/1/1"
        assert wanted in load(DENSE, folder).said
    folder = tmp_path / "one"
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5], "image_std": [1, 1]}')
    with pytest.raises(InputError, match="no mean and standard deviation of three channels"):
        load(DENSE, folder)


def test_only_safetensors_are_read(tmp_path: Path):
    with pytest.raises(InputError, match="no weights here; give a folder with safetensors"):
        load(DENSE, tmp_path)
    torch.save({}, tmp_path / "model.bin")
    with pytest.raises(InputError, match="only pickled weights here, which may run code"):
        load(DENSE, tmp_path)
    with pytest.raises(InputError, match="not one file; give its folder"):
        load(DENSE, tmp_path / "model.bin")
    with pytest.raises(InputError, match=r"set network\.library to transformers"):
        load(DENSE, Path("medsd-small"))
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    save_file({"b": torch.ones(1)}, tmp_path / "b.safetensors")
    with pytest.raises(InputError, match=r"several weights here, a\.safetensors, b\.safetensors"):
        load(DENSE, tmp_path)
    (tmp_path / "b.safetensors").unlink()
    (tmp_path / "a.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"a\.safetensors is damaged"):
        load(DENSE, tmp_path)


def test_weights_on_s3_are_those_in_a_folder(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEDSD_CACHE", str(tmp_path / "cache"))
    folder = saved(tmp_path / "weights", plain(DENSE, 3).state_dict())
    open_storage(s3).upload_tree(folder)
    network = Network(**DENSE, weights=s3)
    there = load_network(network, "classifier", 3, seed=0).network
    torch.testing.assert_close(there(IMAGES), load(DENSE, folder).network(IMAGES))
    assert weights_fingerprint(s3) == weights_fingerprint(str(folder))


def test_the_fingerprint_is_of_the_weights_and_not_of_their_place(tmp_path: Path):
    state = plain(DENSE, 3).state_dict()
    here, there = saved(tmp_path / "here", state), saved(tmp_path / "there", state)
    assert weights_fingerprint(str(here)) == weights_fingerprint(str(there))
    saved(there, state | {"class_layers.out.bias": torch.ones(3)})
    assert weights_fingerprint(str(here)) != weights_fingerprint(str(there))
    vision_models.save("vit", tmp_path / "vit")
    assert weights_fingerprint("medsd-small") != weights_fingerprint(str(tmp_path / "vit"))
