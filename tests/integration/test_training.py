"""Training with real DeepSpeed: stages and world sizes agree, resuming is exact, a killed worker is recovered
from.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from plain_workers import Pool
from run_records import half_of, losses, records
from small_latents import write_latents
from tiny import tiny_components

from medsd_ray.data.dataset import ShardedDataset
from medsd_ray.data.randomness import keyed_noise
from medsd_ray.data.shards import Sample, ShardWriter
from medsd_ray.errors import InputError, RunError
from medsd_ray.models.load import load_components
from medsd_ray.models.save import save_pipeline
from medsd_ray.models.tokens import token_ids
from medsd_ray.spec.load import parse_run
from medsd_ray.spec.run import RunSpec
from medsd_ray.storage import FolderStorage
from medsd_ray.training.checks import check_inputs, check_newest_checkpoint, check_output
from medsd_ray.training.manifest import manifest

STEPS, HALF = 8, 4
STAGES = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, and latents for training and validation."""
    root = tmp_path_factory.mktemp("training")
    components = tiny_components(0)
    save_pipeline(components, root / "model")
    for split, samples in (("train", 48), ("validation", 18)):
        write_latents(
            str(root / "latents"),
            components,
            str(root / "model"),
            split=split,
            samples=samples,
            embeddings=True,
        )
    return root


def spec(root: Path, output: str, workers: int, components: dict | None = None, **training: Any) -> RunSpec:
    return parse_run(
        {
            "name": "test",
            "model": str(root / "model"),
            "data": {"train": str(root / "latents")},
            "components": components
            or {"unet": "full", "text_encoder": {"method": "full", "learning_rate": 5e-4}},
            "training": {
                "max_steps": STEPS,
                "global_batch_size": 8,
                "learning_rate": 1e-3,
                "warmup_steps": 2,
                "log_every": 1,
                "validate_every": HALF,
                **training,
            },
            "checkpoint": {"every_steps": HALF},
            "resources": {"num_workers": workers},
            "output": str(root / output),
        }
    )


def validation_losses(root: Path, output: str, after: int = 0) -> list[float]:
    return [
        r["validation_loss"] for r in records(root, output) if "validation_loss" in r and r["step"] > after
    ]


def result(root: Path, output: str) -> dict:
    return json.loads((root / output / "result.json").read_text())


@pytest.fixture(scope="module")
def whole_runs(root: Path, one_worker: Pool, two_workers: Pool) -> None:
    """Uninterrupted runs at each stage, of one worker and of two with two micro batches a step each."""
    for stage in STAGES:
        one_worker.train(spec(root, f"one-{stage}", 1, zero_stage=stage))
        two_workers.train(spec(root, f"two-{stage}", 2, zero_stage=stage, micro_batch_size=2))


@pytest.mark.parametrize("stage", STAGES)
def test_world_size_micro_batches_and_stage_do_not_change_the_losses(
    root: Path, whole_runs: None, stage: int
):
    reference = losses(root, "one-0")
    assert len(reference) == STEPS and reference[-1] != reference[0]
    for run in (f"one-{stage}", f"two-{stage}"):
        torch.testing.assert_close(losses(root, run), reference, atol=1e-5, rtol=0)
        assert validation_losses(root, run) == pytest.approx(validation_losses(root, "one-0"), abs=1e-5)


def test_validation_is_of_the_averages_at_fixed_timesteps(root: Path, whole_runs: None):
    """By hand, with diffusers alone, over the moving average of the checkpoint that the run's output stands
    for.
    """
    model = load_components(str(root / "one-0"))
    dataset = ShardedDataset(
        str(root / "latents"), "validation", seed=0, tokenize=partial(token_ids, model.tokenizer)
    )
    middles = [62, 187, 312, 437, 562, 687, 812, 937]
    scheduler, each = model.scheduler, []
    for k in range(18):
        sample = dataset.batch(range(k, k + 1))
        shape = tuple(sample["mean"].shape[1:])
        drawn = keyed_noise(0, [k], shape, "validation-posterior")
        x = 0.5 * (sample["mean"] + (sample["logvar"] / 2).exp() * drawn)
        noise = keyed_noise(0, [k], shape, "validation-noise")
        t = torch.tensor([middles[k % 8]], dtype=torch.int32)
        with torch.no_grad():
            text = model.text_encoder(sample["input_ids"])[0]
            guess = model.unet(scheduler.add_noise(x, noise, t), t, text).sample  # type: ignore[arg-type]
        snr = scheduler.alphas_cumprod[t] / (1 - scheduler.alphas_cumprod[t])
        each.append(float(min(snr, 5.0) / snr) * float((guess - noise).square().mean()))
    by_step = {r["step"]: r["validation_loss"] for r in records(root, "one-0") if "validation" in r}
    chosen = result(root, "one-0")["chosen_checkpoint"]
    assert min(by_step.values()) == by_step[chosen["step"]] == chosen["value"]
    assert chosen["value"] == pytest.approx(sum(each) / 18, rel=1e-4)
    about = result(root, "one-0")["validation"]
    assert (about["kind"], about["samples"], about["weights"]) == (2, 18, "moving average")
    assert about["objective"] == {
        "prediction_type": "epsilon",
        "snr_gamma": 5.0,
        "noise_offset": 0.0,
        "drift": {"delta": 0.0, "target": "shifted"},
    }


@pytest.mark.parametrize("stage", (1, 3))
def test_how_often_is_validated_does_not_change_training(
    root: Path, whole_runs: None, two_workers: Pool, stage: int
):
    two_workers.train(spec(root, f"often-{stage}", 2, zero_stage=stage, micro_batch_size=2, validate_every=2))
    torch.testing.assert_close(
        losses(root, f"often-{stage}"), losses(root, f"two-{stage}"), atol=1e-6, rtol=0
    )
    assert len(validation_losses(root, f"often-{stage}")) == STEPS // 2


def test_optimizer_memory_is_sharded(root: Path, whole_runs: None):
    whole = result(root, "two-0")["optimizer_bytes_per_worker"]
    for stage in (1, 2, 3):
        per_worker = result(root, f"two-{stage}")["optimizer_bytes"]
        assert max(per_worker) == result(root, f"two-{stage}")["optimizer_bytes_per_worker"]
        assert max(per_worker) == pytest.approx(whole / 2, rel=0.05)


@pytest.mark.parametrize("stage", STAGES)
def test_resume_is_exact_between_world_sizes(
    root: Path, whole_runs: None, one_worker: Pool, two_workers: Pool, stage: int
):
    half_of(root, f"two-{stage}", f"to-one-{stage}", STEPS)
    half_of(root, f"one-{stage}", f"to-two-{stage}", STEPS)
    one_worker.train(spec(root, f"to-one-{stage}", 1, zero_stage=stage))
    two_workers.train(spec(root, f"to-two-{stage}", 2, zero_stage=stage))
    for resumed, whole in ((f"to-one-{stage}", f"two-{stage}"), (f"to-two-{stage}", f"one-{stage}")):
        assert [r["step"] for r in records(root, resumed)] == [r["step"] for r in records(root, whole)]
        torch.testing.assert_close(losses(root, resumed, HALF), losses(root, whole, HALF), atol=1e-5, rtol=0)
        assert validation_losses(root, resumed, HALF) == pytest.approx(
            validation_losses(root, whole, HALF), abs=1e-5
        )


@pytest.mark.parametrize(("saved", "resumed"), [(0, 3), (3, 1), (2, 0)])
def test_resume_is_exact_between_stages(
    root: Path, whole_runs: None, two_workers: Pool, saved: int, resumed: int
):
    output = f"stage-{saved}-to-{resumed}"
    half_of(root, f"two-{saved}", output, STEPS)
    two_workers.train(spec(root, output, 2, zero_stage=resumed))
    torch.testing.assert_close(
        losses(root, output, HALF), losses(root, f"two-{saved}", HALF), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("micro", [4, 2], ids=lambda n: f"micro-{n}")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("stage", STAGES)
def test_half_precision_is_in_effect_and_follows_single_precision(
    root: Path, whole_runs: None, two_workers: Pool, stage: int, precision: str, micro: int
):
    """With one micro batch a step and with two, whose gradients are summed in float32."""
    output = f"{precision}-{stage}-{micro}"
    how: dict[str, Any] = {"zero_stage": stage, "precision": precision, "micro_batch_size": micro}
    two_workers.train(spec(root, output, 2, **how))
    name = {"bf16": "bfloat16", "fp16": "float16"}[precision]
    assert result(root, output)["compute_dtype"] == {"unet": name, "text_encoder": name}
    assert result(root, output)["master_weight_bytes_per_worker"] > 0
    torch.testing.assert_close(losses(root, output), losses(root, "one-0"), atol=0.03, rtol=0)
    assert not torch.equal(losses(root, output), losses(root, f"two-{stage}"))

    half_of(root, output, f"{output}-resumed", STEPS)
    two_workers.train(spec(root, f"{output}-resumed", 2, **how))
    assert torch.equal(losses(root, f"{output}-resumed", HALF), losses(root, output, HALF))


@pytest.mark.parametrize(
    "training",
    [
        {"gradient_checkpointing": True, "zero_stage": 3},
        {"offload": {"optimizer": True}, "zero_stage": 2},
        {"offload": {"optimizer": True, "parameters": True}, "zero_stage": 3},
    ],
    ids=lambda t: "-".join(map(str, t)) + f"-{t['zero_stage']}",
)
def test_offload_and_checkpointing(
    root: Path, whole_runs: None, two_workers: Pool, training: dict, request: Any
):
    output = request.node.name.replace("/", "-")
    two_workers.train(spec(root, output, 2, **training))
    torch.testing.assert_close(losses(root, output), losses(root, "one-0"), atol=1e-5, rtol=0)
    if training.get("offload"):
        half_of(root, output, f"{output}-resumed", STEPS)
        two_workers.train(spec(root, f"{output}-resumed", 2, **training))
        resumed, whole = losses(root, f"{output}-resumed", HALF), losses(root, output, HALF)
        torch.testing.assert_close(resumed, whole, atol=1e-5, rtol=0)


def test_compiled_blocks_train_alike_and_are_kept_for_a_restart(
    root: Path, whole_runs: None, one_worker: Pool
):
    one_worker.train(spec(root, "compiled", 1, compile=True))
    torch.testing.assert_close(losses(root, "compiled"), losses(root, "one-0"), atol=1e-4, rtol=0)
    assert len(list((root / "compiled/compile-cache").iterdir())) == 1


@pytest.fixture(scope="module")
def images(root: Path) -> str:
    """Image shards for the VAE."""
    pixels = np.random.default_rng(0)
    for split, count in (("train", 24), ("validation", 6)):
        writer = ShardWriter(FolderStorage(root / "images" / split), 10_000, "image", split, size=16)
        for index in range(count):
            image = pixels.integers(0, 256, (16, 16), dtype=np.uint8)
            writer.write(Sample(f"{split}{index}", image, "a chest x-ray", f"p{index}"), {})
        writer.finish()
    return str(root / "images")


@pytest.mark.parametrize(("method", "stage"), [("decoder", 3), ("full", 2), ("scratch", 0)])
def test_the_vae_is_trained_by_each_method(
    root: Path, images: str, one_worker: Pool, two_workers: Pool, method: str, stage: int
):
    def run(output: str, workers: int) -> RunSpec:
        training = {"zero_stage": stage, "sample_every": HALF, "sample_prompts": ["a chest x-ray"]}
        values = spec(root, output, workers, {"vae": method}, **training).model_dump(mode="json")
        return parse_run(values | {"data": {"train": images}})

    one_worker.train(run(f"vae-{method}-one", 1))
    two_workers.train(run(f"vae-{method}-two", 2))
    reference = losses(root, f"vae-{method}-one")
    torch.testing.assert_close(losses(root, f"vae-{method}-two"), reference, atol=1e-5, rtol=0)
    validated = validation_losses(root, f"vae-{method}-one")
    assert (
        validation_losses(root, f"vae-{method}-two") == pytest.approx(validated, abs=1e-5)
        and len(validated) == 2
    )
    assert len(list((root / f"vae-{method}-two/samples").glob(f"step-{STEPS:08d}/*.png"))) == 4
    checkpoint = f"vae-{method}-two/checkpoints/step-{STEPS:08d}"
    base, adapted = (load_components(str(root / name), only=("vae",)).vae for name in ("model", checkpoint))
    # A VAE whose encoder has moved says anew what brings its latents to unit variance.
    latents = adapted.encode(torch.rand(64, 3, 16, 16) * 2 - 1).latent_dist.sample()
    wanted = base.config["scaling_factor"] if method == "decoder" else 1 / latents.std().item()
    assert adapted.config["scaling_factor"] == pytest.approx(wanted, rel=0.25)
    before, after = base.state_dict(), adapted.state_dict()
    changed = {
        name.partition(".")[0] for name, value in after.items() if not torch.equal(value, before[name])
    }
    assert changed == {"decoder", "post_quant_conv"} | (
        set() if method == "decoder" else {"encoder", "quant_conv"}
    )


def test_the_vae_is_trained_in_half_precision(root: Path, images: str, one_worker: Pool):
    for precision in ("fp32", "bf16"):
        values = spec(root, f"vae-{precision}", 1, {"vae": "full"}, precision=precision, zero_stage=0)
        one_worker.train(parse_run(values.model_dump(mode="json") | {"data": {"train": images}}))
    assert result(root, "vae-bf16")["compute_dtype"] == {"vae": "bfloat16"}
    torch.testing.assert_close(losses(root, "vae-bf16"), losses(root, "vae-fp32"), atol=0.03, rtol=0)


def test_a_frozen_text_encoder_is_served_from_the_latents_and_samples_are_drawn(
    root: Path, one_worker: Pool, two_workers: Pool
):
    prompts = {"sample_every": STEPS, "sample_prompts": ["large left pleural effusion", ""]}
    for output, workers, pool in (("frozen-one", 1, one_worker), ("frozen-two", 2, two_workers)):
        pool.train(spec(root, output, workers, {"unet": "full"}, zero_stage=3, **prompts))
    torch.testing.assert_close(losses(root, "frozen-two"), losses(root, "frozen-one"), atol=1e-5, rtol=0)
    names = [root / output / f"samples/step-{STEPS:08d}/00.png" for output in ("frozen-one", "frozen-two")]
    pictures = [np.asarray(Image.open(name).convert("L")).astype(int) for name in names]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    assert Image.open(names[0]).info["prompt"] == "large left pleural effusion"
    assert (names[0].parent / "01.png").is_file()


def test_two_sources_are_mixed_whatever_the_number_of_workers(
    root: Path, one_worker: Pool, two_workers: Pool
):
    """Of the second source, whose latents are shifted, there is a sample for each of the first."""
    components, model = load_components(str(root / "model")), str(root / "model")
    write_latents(str(root / "drawn"), components, model, samples=12, embeddings=True, value=9.0)
    latents = {"shards": str(root / "latents")}
    drawn = {"shards": str(root / "drawn"), "kind": "generated", "weight": 1}

    def run(output: str, workers: int, *sources: dict[str, Any]) -> RunSpec:
        values = spec(root, output, workers, {"unet": "full"}, zero_stage=0).model_dump(mode="json")
        return parse_run(values | {"data": {"sources": list(sources)}})

    one_worker.train(run("mixed-one", 1, latents, drawn))
    two_workers.train(run("mixed-two", 2, latents, drawn))
    one_worker.train(run("unmixed", 1, latents))
    one_worker.train(spec(root, "train-alone", 1, {"unet": "full"}, zero_stage=0))
    mixed = losses(root, "mixed-one")
    torch.testing.assert_close(losses(root, "mixed-two"), mixed, atol=1e-5, rtol=0)
    assert torch.equal(losses(root, "unmixed"), losses(root, "train-alone"))
    assert not torch.allclose(mixed, losses(root, "unmixed"), atol=1e-2)
    assert len(validation_losses(root, "mixed-one")) == 2  # on the real source's split
    both = run("mixed-one", 1, latents, drawn)
    sources = manifest(both, check_inputs(both))["data"]
    assert [(one["kind"], one["samples"], one["share"]) for one in sources] == [
        ("real", 48, 0.5),
        ("generated", 12, 0.5),
    ]

    half_of(root, "mixed-two", "mixed-resumed", STEPS)
    one_worker.train(run("mixed-resumed", 1, latents, drawn))
    torch.testing.assert_close(losses(root, "mixed-resumed", HALF), mixed[HALF:], atol=1e-5, rtol=0)
    half_of(root, "mixed-two", "mixed-other", STEPS)
    other = check_inputs(run("mixed-other", 1, latents, drawn | {"weight": 0.5}))
    with pytest.raises(InputError, match=r"--resume: data\.sources is .*0\.5"):
        check_newest_checkpoint(other, FolderStorage(root / "mixed-other"))


def test_a_run_that_diverges_says_so_and_keeps_its_checkpoints(root: Path, one_worker: Pool):
    broken = tiny_components(0)
    write_latents(str(root / "broken"), broken, str(root / "model"), samples=16, value=float("nan"))
    run = spec(root, "diverged", 1, zero_stage=2)
    run = parse_run(run.model_dump(mode="json") | {"data": {"train": str(root / "broken")}})
    with pytest.raises(RunError, match=r"diverged.*up to step 5"):
        one_worker.train(run)
    assert json.loads((root / "diverged/progress.json").read_text())["state"] == "failed"


def test_what_does_not_fit_is_refused_before_any_worker_starts(root: Path, images: str):
    run = spec(root, "refused", 1)
    values = run.model_dump(mode="json")

    def refused(words: str, **change: Any) -> None:
        with pytest.raises(InputError, match=words):
            check_inputs(parse_run(values | change))

    refused("image shards, but the U-Net.*encode them", data={"train": images})
    refused("latent shards, but the vae", components={"vae": "full"})
    refused("no finished 'train' split", data={"train": str(root / "nowhere")})
    write_latents(str(root / "ids-only"), tiny_components(0), str(root / "model"), samples=4)
    refused("frozen text_encoder needs", data={"train": str(root / "ids-only")}, components={"unet": "full"})
    other = tiny_components(1)
    save_pipeline(other, root / "other")
    refused("whose vae is not the one", model=str(root / "other"))
    store = FolderStorage(root / "taken")
    with pytest.raises(InputError, match="no run to resume"):
        check_output(store, resume=True)
    store.write("run.yaml", b"")
    with pytest.raises(InputError, match="go on with --resume"):
        check_output(store, resume=False)


def test_patience_ends_a_run_and_one_that_is_gone_on_with_at_the_same_step(
    root: Path, one_worker: Pool, two_workers: Pool
):
    """At this learning rate the tiny model is soon worse than it was."""
    settings = {"validate_every": 1, "patience": 2, "learning_rate": 0.3, "warmup_steps": 0, "max_steps": 40}
    one_worker.train(spec(root, "patient", 1, zero_stage=0, **settings))
    whole = result(root, "patient")
    validated = [r["validation_loss"] for r in records(root, "patient") if "validation" in r]
    assert whole["step"] == len(validated) < 40 and min(validated) == validated[-3]
    assert f"after step {len(validated) - 2} was below" in whole["ended_early"]
    half_of(root, "patient", "patient-again", whole["step"])
    two_workers.train(spec(root, "patient-again", 2, zero_stage=0, **settings))
    again = result(root, "patient-again")
    assert (again["step"], again["ended_early"]) == (whole["step"], whole["ended_early"])
