"""Loading models from every kind of address, and what is said of models that are not whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from tiny import shifted, tiny_components, write_checkpoint

from medsd_ray.errors import InputError
from medsd_ray.generation.sampling import image_size
from medsd_ray.models.load import load_components
from medsd_ray.models.resolve import model_fingerprint
from medsd_ray.models.save import save_pipeline
from medsd_ray.storage import FolderStorage


@pytest.fixture(scope="module")
def components():
    return tiny_components(prediction_type="v_prediction")


@pytest.fixture(scope="module")
def saved(components, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_pipeline(components, folder)
    return folder


@pytest.fixture
def pipeline(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "base"))


def same(module, other) -> bool:
    mine, theirs = module.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_a_saved_pipeline_loads_as_it_was(components, saved):
    loaded = load_components(str(saved))
    for name, module in components.modules().items():
        assert same(loaded.modules()[name], module), name
        assert not loaded.modules()[name].training
    words = ["a chest x-ray", "Größe: 3 mm"]
    assert loaded.tokenizer(words)["input_ids"] == components.tokenizer(words)["input_ids"]
    assert loaded.scheduler.config.prediction_type == "v_prediction"
    assert torch.equal(loaded.scheduler.alphas_cumprod, components.scheduler.alphas_cumprod)


def test_diffusers_loads_a_saved_pipeline_by_itself(components, saved):
    pipeline = StableDiffusionPipeline.from_pretrained(saved, use_safetensors=True, local_files_only=True)
    assert same(pipeline.unet, components.unet) and same(pipeline.text_encoder, components.text_encoder)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


def test_only_the_named_parts_are_loaded(pipeline):
    shutil.rmtree(pipeline / "unet")
    loaded = load_components(str(pipeline), only=("vae", "tokenizer"))
    assert list(loaded.modules()) == ["vae"] and loaded.tokenizer is not None and loaded.scheduler is None


def test_half_precision_weights_load_in_single_precision(components, pipeline):
    path = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    halves = {key: value.half() for key, value in load_file(path).items()}
    path.unlink()
    save_file(halves, path.with_name("diffusion_pytorch_model.fp16.safetensors"), metadata={"format": "pt"})
    unet = load_components(str(pipeline), only=("unet",)).unet
    assert unet.dtype == torch.float32
    assert all(torch.equal(value, halves[key].float()) for key, value in unet.state_dict().items())


def test_stable_diffusion_1_names_of_weights_are_known(components, pipeline):
    """Its VAE's attention is query, key, value, proj_attn; its text encoder also stores position ids."""
    path = pipeline / "vae" / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for key, value in load_file(path).items():
        for new, former in names.items():
            key = key.replace(new, former)
        old[key] = value
    save_file(old, path, metadata={"format": "pt"})
    path = pipeline / "text_encoder" / "model.safetensors"
    text = load_file(path) | {"text_model.embeddings.position_ids": torch.arange(32)[None]}
    assert all(key.startswith("text_model.") for key in text)
    save_file(text, path, metadata={"format": "pt"})
    loaded = load_components(str(pipeline))
    assert same(loaded.vae, components.vae) and same(loaded.text_encoder, components.text_encoder)


def refusal(model, **options) -> str:
    with pytest.raises(InputError) as caught:
        load_components(str(model), **options)
    line = str(caught.value)
    assert "\n" not in line and str(model) in line
    return line


@pytest.mark.parametrize("part", ["vae", "text_encoder", "tokenizer", "unet", "scheduler"])
def test_a_missing_part_is_named(pipeline, part):
    shutil.rmtree(pipeline / part)
    assert f"no {part} folder" in refusal(pipeline)


def test_pickled_weights_are_refused(pipeline):
    weights = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    assert "convert them to safetensors" in refusal(pipeline)


def test_a_folder_with_one_old_checkpoint_file_is_refused(tmp_path):
    (tmp_path / "sd-v1-4.ckpt").write_bytes(b"")
    assert "convert them to safetensors" in refusal(tmp_path)
    assert "not one file" in refusal(tmp_path / "sd-v1-4.ckpt")


@pytest.mark.parametrize(
    "file",
    ["model_index.json", "vae/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json"]
    + [f"{part}.safetensors" for part in ("vae/diffusion_pytorch_model", "text_encoder/model")],
)
def test_a_damaged_file_is_refused(pipeline, file):
    data = (pipeline / file).read_bytes()
    (pipeline / file).write_bytes(data[: len(data) // 2])
    line = refusal(pipeline)
    assert file.split("/")[0] in line and "copy it anew" in line


@pytest.mark.parametrize("held", ['"runwayml/stable-diffusion-v1-5"', "[]", "7"])
@pytest.mark.parametrize("file", ["vae/config.json", "scheduler/scheduler_config.json"])
def test_a_configuration_that_is_no_object_is_refused(pipeline, file, held):
    """It would be taken for a hub name, which is then asked for, or for the defaults."""
    (pipeline / file).write_text(held)
    assert f"{file} is damaged; copy it anew" in refusal(pipeline)


def test_a_weight_that_is_not_there_is_never_drawn_at_random(pipeline):
    path = pipeline / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    weights.pop("text_model.final_layer_norm.bias")
    save_file(weights, path, metadata={"format": "pt"})
    assert "final_layer_norm.bias" in refusal(pipeline)


def test_another_architecture_is_refused(pipeline):
    card = json.loads((pipeline / "model_index.json").read_text())
    (pipeline / "model_index.json").write_text(
        json.dumps(card | {"unet": ["diffusers", "Transformer2DModel"]})
    )
    assert "Transformer2DModel" in refusal(pipeline)


@pytest.mark.parametrize("address", ["no-such-model", "/nowhere/at/all", "./models/none"])
def test_no_model_at_an_address(address):
    assert "no such model" in refusal(address)


def test_a_hub_name_that_cannot_be_had(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "the hub did not give" in refusal("medsd-tests/no-such-model")


def test_an_empty_folder(tmp_path):
    assert "no model here" in refusal(tmp_path)


# --- checkpoints


@pytest.fixture
def runs(components, pipeline) -> Path:
    """A VAE run over the base, and over its output a U-Net run that names it by a path relative to the folder
    of both.
    """
    root = pipeline.parent
    for name, model, part, method in (
        ("vae-run", str(pipeline), "vae", "decoder"),
        ("unet-run", "vae-run", "unet", "full"),
    ):
        run = FolderStorage(root / name)
        run.write("run.yaml", b"name: test\n")
        for step in (20, 40):
            weights, ema = shifted(components, part, step), shifted(components, part, step + 0.5)
            store = run.child(f"checkpoints/step-{step:08d}")
            write_checkpoint(store, model, {part: method}, weights, ema, step=step)
    return root


def moved(module, base) -> float:
    """By how much all weights of a module differ from the base's."""
    differences = [
        (new - old).mean().item() for new, old in zip(module.parameters(), base.parameters(), strict=True)
    ]
    assert max(differences) == pytest.approx(min(differences), abs=1e-3)
    return differences[0]


def test_a_run_gives_its_newest_averaged_weights_over_those_it_was_trained_from(components, runs):
    loaded = load_components(str(runs / "unet-run"))
    assert moved(loaded.unet, components.unet) == pytest.approx(40.5, abs=1e-3)
    assert moved(loaded.vae, components.vae) == pytest.approx(40.5, abs=1e-3)
    assert same(loaded.text_encoder, components.text_encoder)
    assert loaded.scheduler.config.prediction_type == "epsilon"  # as the run trained it, not as the base was


def test_the_size_of_the_images_is_that_of_the_latents_of_the_last_run(components, runs, tmp_path):
    for size, kept in (([8, 8], 8), ([6, 10], [6, 10])):
        store = FolderStorage(runs / "unet-run" / "checkpoints" / "step-00000060")
        weights = shifted(components, "unet", 0)
        write_checkpoint(store, "vae-run", {"unet": "full"}, weights, weights, step=60, sample_size=size)
        loaded = load_components(str(runs / "unet-run"))
        assert list(loaded.sample_size) == size and image_size(loaded) == (2 * size[0], 2 * size[1])
        save_pipeline(loaded, tmp_path / "exported")
        assert json.loads((tmp_path / "exported/unet/config.json").read_text())["sample_size"] == kept


def test_raw_weights_are_the_last_runs_alone(components, runs):
    loaded = load_components(str(runs / "unet-run" / "checkpoints" / "step-00000020"), raw=True)
    assert moved(loaded.unet, components.unet) == pytest.approx(20, abs=1e-3)
    assert moved(loaded.vae, components.vae) == pytest.approx(40.5, abs=1e-3)


def test_a_checkpoint_that_is_not_complete_is_not_used(components, runs):
    newest = runs / "unet-run" / "checkpoints" / "step-00000040"
    (newest / "COMPLETE").unlink()
    assert moved(load_components(str(runs / "unet-run")).unet, components.unet) == pytest.approx(
        20.5, abs=1e-3
    )
    assert "not complete" in refusal(newest)
    shutil.rmtree(runs / "unet-run" / "checkpoints")
    assert "no complete checkpoint" in refusal(runs / "unet-run")


def test_a_checkpoint_whose_base_is_gone_says_so(runs, pipeline):
    shutil.rmtree(pipeline)
    with pytest.raises(InputError, match=r"base: no such model \(named by .*vae-run"):
        load_components(str(runs / "unet-run"))


def test_a_checkpoint_of_another_architecture_is_refused(components, runs):
    wrong = {"unet.conv_in.bias": torch.zeros(5)}
    store = FolderStorage(runs / "wrong")
    write_checkpoint(store, "base", {"unet": "full"}, wrong, wrong)
    assert "does not fit" in refusal(runs / "wrong")
    extra = {"unet.no_such_layer.bias": torch.zeros(4)}
    write_checkpoint(store, "base", {"unet": "full"}, extra, extra)
    assert "no_such_layer" in refusal(runs / "wrong")


def test_a_damaged_description_is_refused(runs):
    path = runs / "vae-run" / "checkpoints" / "step-00000040" / "checkpoint.json"
    path.write_text("{")
    assert "damaged" in refusal(runs / "vae-run" / "checkpoints" / "step-00000040")


def test_a_fingerprint_is_of_the_weights_wherever_they_lie(runs, saved, pipeline):
    assert model_fingerprint(str(pipeline)) == model_fingerprint(str(saved))
    averaged, raw = (model_fingerprint(str(runs / "unet-run"), raw=raw) for raw in (False, True))
    earlier = model_fingerprint(str(runs / "unet-run" / "checkpoints" / "step-00000020"))
    vae = model_fingerprint(str(runs / "vae-run"))
    assert len({averaged, raw, earlier, vae, model_fingerprint(str(saved))}) == 5
    elsewhere = runs.parent / (runs.name + "-moved")
    shutil.copytree(runs, elsewhere)
    assert model_fingerprint(str(elsewhere / "unet-run")) == averaged
    path = pipeline / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({key: value + 1 for key, value in load_file(path).items()}, path, metadata={"format": "pt"})
    assert model_fingerprint(str(runs / "unet-run")) != averaged


def test_a_fingerprint_of_some_parts_is_that_of_what_trained_them(runs):
    unet_run, vae_run, base = (str(runs / name) for name in ("unet-run", "vae-run", "base"))
    of = {
        (run, part): model_fingerprint(run, only=(part,))
        for run in (unet_run, vae_run, base)
        for part in ("vae", "unet")
    }
    assert of[unet_run, "vae"] == of[vae_run, "vae"] != of[base, "vae"]
    assert of[unet_run, "unet"] != of[vae_run, "unet"] == of[base, "unet"]


def test_a_base_that_changed_after_the_training_is_noticed(components, runs):
    weights = shifted(components, "unet", 1)
    for name, model in (("from-run", "vae-run"), ("from-base", "base")):
        recorded = {"model": model_fingerprint(str(runs / model)), "data": ""}
        write_checkpoint(
            FolderStorage(runs / name), model, {"unet": "full"}, weights, weights, fingerprints=recorded
        )
        load_components(str(runs / name), only=("unet",))
    shutil.rmtree(runs / "vae-run" / "checkpoints" / "step-00000040")
    assert "has changed since" in refusal(runs / "from-run")
    load_components(str(runs / "from-base"), only=("unet",))
    path = runs / "base" / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({key: value + 1 for key, value in load_file(path).items()}, path, metadata={"format": "pt"})
    assert "has changed since" in refusal(runs / "from-base")
