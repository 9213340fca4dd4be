"""A checkpoint becomes a plain folder, and only after its images were checked or someone said why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from tiny import shifted, tiny_components, write_checkpoint

from medsd_ray.documents import to_yaml
from medsd_ray.errors import InputError
from medsd_ray.generation.asked import Asked
from medsd_ray.generation.generate import make_plan
from medsd_ray.generation.image_worker import write_images
from medsd_ray.models.export import export
from medsd_ray.models.load import load_components
from medsd_ray.models.resolve import model_fingerprint
from medsd_ray.models.save import save_pipeline
from medsd_ray.runs.checkpoints import describe_checkpoint
from medsd_ray.spec.images import Sampling
from medsd_ray.spec.shown_addresses import without_local_paths
from medsd_ray.storage import FolderStorage, open_storage


@pytest.fixture(scope="module")
def components():
    return tiny_components()


@pytest.fixture
def runs(components, tmp_path) -> Path:
    """vae-run over a base, unet-run over that; see the model card test for what they say of themselves."""
    save_pipeline(components, tmp_path / "base")
    for name, model, part, method, by in (
        ("vae-run", "base", "vae", "decoder", 0.0),
        ("unet-run", "vae-run", "unet", "full", 0.01),
    ):
        run = FolderStorage(tmp_path / name)
        run.write("run.yaml", b"")
        run.write_json("manifest.json", {"data_sha256": "d" * 64})
        weights, ema = shifted(components, part, by), shifted(components, part, 2 * by)
        spec = {"name": name, "data": {"train": f"{part}-data"}}
        write_checkpoint(
            run.child("checkpoints/step-00000020"), model, {part: method}, weights, ema, spec=spec
        )
    return tmp_path


def write_report(runs: Path, passed, fingerprint: str) -> str:
    path = runs / "report.json"
    path.write_text(json.dumps({"memorisation": {"passed": passed}, "model_fingerprint": fingerprint}))
    return str(path)


def test_diffusers_loads_and_samples_from_an_export(components, runs, monkeypatch):
    monkeypatch.setattr(
        "socket.socket.connect", lambda *_: pytest.fail("export or loading went to the network")
    )
    run, dest = str(runs / "unet-run"), runs / "exported"
    export(run, str(dest), report=write_report(runs, True, model_fingerprint(run)))
    pipeline = StableDiffusionPipeline.from_pretrained(dest, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a chest x-ray", num_inference_steps=2).images[0].size == (16, 16)
    trained, base = pipeline.unet.conv_in.bias, components.unet.conv_in.bias
    assert torch.allclose(trained, base + 0.02, atol=1e-6)
    again = load_components(str(dest))
    assert torch.equal(again.unet.conv_in.bias, trained)
    assert set(open_storage(dest).complete() or {}) == set(open_storage(dest).list()) - {"COMPLETE"}


def test_the_model_card_says_what_it_is(runs):
    dest = runs / "exported"
    export(str(runs / "unet-run"), str(dest), without_memorisation_check="a smoke test on phantoms", raw=True)
    card = (dest / "README.md").read_text()
    for text in (
        "Research use only", "not checked: a smoke test on phantoms", "Base model: `base`",
        "unet (full): 20 steps from `vae-run`",
        "vae (decoder): 20 steps from `base`", "unet-data", "d" * 64, "Weights: as trained",
        "name: unet-run", "--raw",
        model_fingerprint(str(runs / "unet-run"), raw=True),
    ):  # fmt: skip
        assert text in card
    unet = load_components(str(dest), only=("unet",)).unet
    assert torch.allclose(unet.conv_in.bias, tiny_components().unet.conv_in.bias + 0.01, atol=1e-6)


def test_a_run_of_the_vae_alone_needs_no_check(runs):
    export(str(runs / "vae-run" / "checkpoints" / "step-00000020"), str(runs / "exported"))
    assert "not needed: only the VAE was trained" in (runs / "exported" / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, r"memorisation check comes first: .* --report report\.json \(or --without-memorisation-check"),
        ({"without_memorisation_check": "because"}, "in a few words"),
        ({"without_memorisation_check": ""}, "in a few words"),
        ({"report": False}, "check failed"),
        ({"report": None}, "was not done"),
        ({"report": "other"}, "another model"),
        ({"report": "broken"}, "not a report"),
        ({"report": "absent"}, "no such file"),
        ({"report": True, "without_memorisation_check": "we have both here"}, "not both"),
        (
            {"report": True, "raw": True},
            "another model",
        ),  # the averaged weights were checked, not the raw ones
    ],
)
def test_the_gate_stays_shut(runs, options, reason):
    run, kind = str(runs / "unet-run"), options.pop("report", "none")
    if kind != "none":
        fingerprint = "f" * 64 if kind == "other" else model_fingerprint(run)
        report = write_report(runs, kind if kind != "other" else True, fingerprint)
        if kind == "broken":
            Path(report).write_text("{}")
        options = options | {"report": str(runs / "absent.json") if kind == "absent" else report}
    with pytest.raises(InputError, match=reason):
        export(run, str(runs / "exported"), **options)
    assert not (runs / "exported").exists()


def test_what_cannot_be_exported(runs):
    reason = "phantoms, no patient's image"
    with pytest.raises(InputError, match="needs no export"):
        export(str(runs / "base"), str(runs / "exported"), without_memorisation_check=reason)
    (runs / "full").mkdir()
    (runs / "full" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        export(str(runs / "unet-run"), str(runs / "full"), without_memorisation_check=reason)


def test_nothing_that_is_shared_names_a_folder_of_this_machine(components, tmp_path):
    """Of an absolute path its last part stays, and the fingerprint of what lies there."""
    home = tmp_path / "Jane Doe"
    components.unet.register_to_config(_name_or_path=str(home / "base" / "unet"))
    components.text_encoder.config._name_or_path = str(home / "base" / "text_encoder")
    save_pipeline(components, home / "base")
    spec = {
        "name": "unet-run",
        "model": str(home / "base"),
        "output": str(home / "run"),
        "data": {"train": str(home / "latents"), "validation": None, "cache": "~/cache/of-latents"},
        "training": {"sample_prompts": ["/ a slash before a prompt"]},
    }
    run = FolderStorage(home / "run")
    run.write("run.yaml", to_yaml(spec).encode())
    shared = without_local_paths(spec)
    assert shared["data"] == {"train": "latents", "validation": None, "cache": "of-latents"}
    sources = {"sources": [{"shards": str(home / "latents"), "domain": "/x"}, {"shards": "s3://b/l"}]}
    assert without_local_paths({"data": sources})["data"]["sources"] == [
        {"shards": "latents", "domain": "/x"},
        {"shards": "s3://b/l"},
    ]
    assert shared["training"] == spec["training"] and (shared["model"], shared["output"]) == ("base", "run")
    write_checkpoint(
        run.child("checkpoints/step-00000020"), "base", {"unet": "full"},
        shifted(components, "unet", 0.1), shifted(components, "unet", 0.2),
        spec=spec, fingerprints={"model": model_fingerprint(str(home / "base"))},
    )  # fmt: skip
    loaded = load_components(str(home / "run"))  # run.yaml says where its base is
    assert torch.allclose(loaded.unet.conv_in.bias, components.unet.conv_in.bias + 0.2, atol=1e-6)
    fingerprint = model_fingerprint(str(home / "run"))
    report = home / "report.json"
    report.write_text(json.dumps({"memorisation": {"passed": True}, "model_fingerprint": fingerprint}))
    export(str(home / "run"), str(home / "out"), report=str(report))
    card = (home / "out" / "README.md").read_text()
    assert model_fingerprint(str(home / "base")) in card and "from `base`" in card and "`latents`" in card
    for path in (home / "out").rglob("*"):
        assert path.is_dir() or b"Jane Doe" not in path.read_bytes(), path
    assert json.loads((home / "out" / "unet" / "config.json").read_text())["_name_or_path"] == "unet"


def test_a_checkpoint_that_left_its_run_finds_its_base_beside_it(components, tmp_path):
    save_pipeline(components, tmp_path / "base")
    weights = shifted(components, "unet", 0.1)
    write_checkpoint(FolderStorage(tmp_path / "copied"), "base", {"unet": "full"}, weights, weights)
    loaded = load_components(str(tmp_path / "copied"))
    assert torch.allclose(loaded.unet.conv_in.bias, components.unet.conv_in.bias + 0.1, atol=1e-6)


def test_what_images_say_of_their_model(components, tmp_path):
    folder = FolderStorage(tmp_path / "images")
    asked = Asked(["a"], [{}])
    plan = make_plan(str(tmp_path / "base"), "f" * 64, asked, 1, 0, Sampling(steps=1))
    assert plan["model"] == "base"
    write_images(components, plan, [0], folder, asked)
    text = Image.open(tmp_path / "images" / "00000.png").text
    assert (text["model"], text["model_fingerprint"]) == ("base", "f" * 64)
    assert str(tmp_path) not in str(text)


def test_a_base_that_was_moved_is_found_by_what_the_run_says_now(components, tmp_path):
    """A resumed run may name its model by another path; older checkpoints have the earlier last part."""
    save_pipeline(components, tmp_path / "moved")
    run = FolderStorage(tmp_path / "run")
    run.write("run.yaml", to_yaml({"model": str(tmp_path / "moved")}).encode())
    weights, at = shifted(components, "unet", 0.1), run.child("checkpoints/step-00000020")
    fingerprint = model_fingerprint(str(tmp_path / "moved"))
    write_checkpoint(at, "base", {"unet": "full"}, weights, weights, fingerprints={"model": fingerprint})
    loaded = load_components(str(tmp_path / "run"))
    assert torch.allclose(loaded.unet.conv_in.bias, components.unet.conv_in.bias + 0.1, atol=1e-6)


def test_a_swapped_encoder_is_found_from_its_run(tmp_path, monkeypatch):
    swap = {"text_encoder": {"method": "swap", "swap": {"model": "radbert"}}}
    for written, found in (("models/radbert", tmp_path / "models" / "radbert"), (str(tmp_path / "x"), None)):
        (tmp_path / "models" / "radbert").mkdir(parents=True, exist_ok=True)
        spec = {"model": "medsd-small", "components": {"text_encoder": {"swap": {"model": written}}}}
        run = FolderStorage(tmp_path / "runs" / "one")
        run.write("run.yaml", to_yaml(spec).encode())
        at = run.child("checkpoints/step-00000020")
        write_checkpoint(at, "medsd-small", {"text_encoder": "swap"}, {}, {}, spec={"components": swap})
        monkeypatch.chdir("/")
        description = describe_checkpoint(at)
        assert description["model"] == "medsd-small"
        address = description["spec"]["components"]["text_encoder"]["swap"]["model"]
        assert address == str(found or written)
