"""Latent Drifting: exact samples of one-dimensional data where the denoiser is known in closed form, what a
run trains and records, and images of a plain diffusers pipeline.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from PIL import Image
from specs import RUN, changed
from tiny import shifted, tiny_components, write_checkpoint
from torch import Tensor

from medsd_ray.data.randomness import keyed_noise
from medsd_ray.errors import InputError
from medsd_ray.generation.edit import edit
from medsd_ray.generation.generate import generate
from medsd_ray.generation.sampling import SCHEDULERS, sample_images
from medsd_ray.models.components import Components
from medsd_ray.models.drift import NONE, Drift, drift_notes, in_effect, recorded_drift
from medsd_ray.models.drift_card import drift_section
from medsd_ray.models.load import load_components
from medsd_ray.models.methods.registry import adapt
from medsd_ray.models.resolve import resolve
from medsd_ray.models.save import save_pipeline
from medsd_ray.models.schedulers import sampling_scheduler
from medsd_ray.models.tokens import token_ids
from medsd_ray.spec.components import Components as Methods
from medsd_ray.spec.images import DRIFT_WHERE, Sampling
from medsd_ray.spec.load import parse_run
from medsd_ray.storage import FolderStorage
from medsd_ray.training.stages.unet import UnetStage

Prediction = Literal["epsilon", "v_prediction"]
MEAN, STD, DELTA = 0.3, 0.5, 0.2
PROMPT = "a chest x-ray"


@pytest.fixture(scope="module")
def tiny() -> Components:
    return tiny_components()


# --- one dimension


def schedule(prediction: Prediction) -> DDPMScheduler:
    return DDPMScheduler(beta_schedule="scaled_linear", prediction_type=prediction, clip_sample=False)


def denoised(z: Tensor, a: float, s: float, prediction: Prediction, target: str) -> Tensor:
    """What the best U-Net says of z = a·z_0 + s·(ε + δ), where z_0 ~ N(MEAN, STD²) and ε ~ N(0, 1): the
    target's expectation given z, by the formula of Gaussians.
    """
    apart = (z - a * MEAN - s * DELTA) / (a**2 * STD**2 + s**2)
    z0, noise = MEAN + a * STD**2 * apart, s * apart + (DELTA if target == "shifted" else 0)
    return noise if prediction == "epsilon" else a * noise - s * z0


def sampled(
    scheduler: str, steps: int, prediction: Prediction, target: str, where: str
) -> tuple[float, float]:
    """Mean and deviation of what is sampled from z_T ~ N(δ, 1): each step is affine in z, so where δ and
    δ + 1 end tells both.
    """
    sampler = sampling_scheduler(schedule(prediction), SCHEDULERS[scheduler])
    sampler.drift, sampler.drift_where = DELTA, where
    sampler.set_timesteps(steps)
    z = torch.tensor([DELTA, DELTA + 1])
    for t in sampler.timesteps:
        a2 = float(sampler.alphas_cumprod[t])
        output = denoised(z, math.sqrt(a2), math.sqrt(1 - a2), prediction, target)
        z = sampler.step(output, t, z, return_dict=False)[0]
    return float(z[0]), float(z[1] - z[0])


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("target", "where"), [("shifted", "init_only"), ("plain", "scaled_by_sigma")])
def test_the_datas_mean_and_spread_come_back_as_steps_grow(scheduler, prediction, target, where):
    found = [sampled(scheduler, steps, prediction, target, where) for steps in (5, 100)]
    few, many = (abs(mean - MEAN) + abs(std - STD) for mean, std in found)
    assert many < 0.02 and many < few


@pytest.mark.parametrize(("target", "where"), [("plain", "init_only"), ("shifted", "scaled_by_sigma")])
def test_with_the_other_target_the_mean_is_another(target: str, where: str):
    mean, _ = sampled("ddim", 50, "epsilon", target, where)
    assert abs(mean - MEAN) > 0.1


def recurrence(scheduler: str, steps: int) -> float:
    """The mean of what `per_step` samples: DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12) or
    DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, alg. 2), in float64, with δ added after each step.
    """
    sampler = sampling_scheduler(schedule("epsilon"), SCHEDULERS["ddim"])
    sampler.set_timesteps(steps)
    levels = [*(float(sampler.alphas_cumprod[t].double()) for t in sampler.timesteps), 1.0]
    z, before, step_before = DELTA, None, 0.0
    for index, (now, after) in enumerate(pairwise(levels)):
        a, s, b, r = math.sqrt(now), math.sqrt(1 - now), math.sqrt(after), math.sqrt(1 - after)
        noise = float(denoised(torch.tensor(z, dtype=torch.float64), a, s, "epsilon", "shifted"))
        z0 = (z - s * noise) / a
        if scheduler == "ddim":
            z = b * z0 + r * noise + DELTA
            continue
        h = math.inf if after == 1 else math.log(b / r) - math.log(a / s)
        used = z0  # of first order in the first step and the last
        if before is not None and index + 1 < steps:
            used = z0 + (z0 - before) * h / (2 * step_before)
        z = (r / s) * z - b * math.expm1(-h) * used + DELTA
        before, step_before = z0, h
    return z


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
@pytest.mark.parametrize("steps", [8, 25])
def test_per_step_moves_the_mean_as_its_recurrence_says(scheduler: str, steps: int):
    mean, _ = sampled(scheduler, steps, "epsilon", "shifted", "per_step")
    assert mean == pytest.approx(recurrence(scheduler, steps), abs=2e-4)
    assert mean > MEAN + DELTA  # more than the last step's own


# --- training

METHODS: dict[str, dict[str, Any]] = {
    "full": {"unet": {"method": "full"}},
    "lora": {"unet": {"method": "lora", "lora": {"rank": 2, "alpha": 2}}},
    "cross-attention": {"unet": {"method": "cross_attention"}},
    "textual inversion": {
        "text_encoder": {
            "method": "textual_inversion",
            "tokens": [{"token": "<effusion>", "initializer": "effusion"}],
        }
    },
    "dreambooth": {"unet": {"method": "full"}},
}


def a_stage(method: str, drift: dict[str, Any], components: Components) -> UnetStage:
    prior = {"prior": {"data": "s3://bucket/class", "weight": 0.5}} if method == "dreambooth" else {}
    run = parse_run(
        changed(RUN, {"name": "one", "components": METHODS[method], "objective.drift": drift} | prior)
    )
    return UnetStage(components, run, torch.zeros(32, 16), scaling_factor=1.0)


def adapted(method: str, prediction: Prediction = "epsilon") -> Components:
    components, how = tiny_components(prediction_type=prediction), Methods.model_validate(METHODS[method])
    for name in ("unet", "text_encoder"):
        adapt(components, name, getattr(how, name), 0)
    if method != "textual inversion":
        components.text_encoder = components.tokenizer = None  # type: ignore[assignment]
    return components


def a_sample(stage: UnetStage) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    moments = {name: torch.randn(3, 4, 8, 8, generator=rng) for name in ("mean", "logvar")}
    if stage.tokenizer is not None:
        return moments | {
            "input_ids": token_ids(stage.tokenizer, ["<effusion>"] * 3),
            "positions": torch.arange(3),
        }
    own = moments | {"text_embeddings": torch.randn(3, 32, 16, generator=rng), "positions": torch.arange(3)}
    prior = {f"prior_{name}": value for name, value in own.items()} if stage.run.prior else {}
    return own | prior


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_from_noise_with_the_drifts_mean(method: str):
    """Noisy latents have s_t·δ more than without; the target δ more (`shifted`) or nothing (`plain`); and the
    loss that is minimised is of these.
    """
    components = adapted(method)
    none, plain, moved = (
        a_stage(method, drift, components)
        for drift in ({}, {"delta": 0.2, "target": "plain"}, {"delta": 0.2, "target": "shifted"})
    )
    batches = [stage.prepare(a_sample(stage), "train") for stage in (none, plain, moved)]
    s = (1 - none.alphas_cumprod[batches[0]["timesteps"]]).sqrt().view(-1, 1, 1, 1)
    assert len(s) == (6 if method == "dreambooth" else 3)
    for batch, more in zip(batches[1:], (0.0, 0.2), strict=True):
        torch.testing.assert_close(batch["noisy"] - batches[0]["noisy"], (0.2 * s).expand(-1, 4, 8, 8))
        torch.testing.assert_close(
            batch["wanted"] - batches[0]["wanted"], torch.full((len(s), 4, 8, 8), more)
        )
    losses = [
        float(stage(batch).detach()) for stage, batch in zip((none, plain, moved), batches, strict=True)
    ]
    assert len(set(losses)) == 3
    moved(batches[2]).backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in moved.parameters())


def test_v_targets_hold_the_moved_noise_too():
    components = adapted("full", "v_prediction")
    none, moved = (a_stage("full", drift, components) for drift in ({}, {"delta": 0.2}))
    before, after = (stage.prepare(a_sample(stage), "train") for stage in (none, moved))
    a = none.alphas_cumprod[before["timesteps"]].sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(after["wanted"] - before["wanted"], (0.2 * a).expand(-1, 4, 8, 8))


def test_no_drift_is_plain_training_bit_for_bit():
    components = adapted("full")
    plain = a_stage("full", {}, components)
    zero = a_stage("full", {"delta": 0.0, "target": "plain", "where": "init_only"}, components)
    for purpose in ("train", "validation"):
        one, other = (stage.prepare(a_sample(stage), purpose) for stage in (plain, zero))
        assert all(torch.equal(one[name], other[name]) for name in one)
        noise = keyed_noise(0, torch.arange(3), (4, 8, 8), f"{purpose}-noise")
        assert torch.equal(one["wanted"], noise)


# --- sampling


def images(model: Components, **settings: Any) -> np.ndarray:
    sampling = Sampling(steps=2, guidance_scale=1.0, **settings)
    return sample_images(model, [PROMPT], [0], seed=1, sampling=sampling)


def with_drift(model: Components, drift: Drift) -> Components:
    return Components(
        model.vae, model.text_encoder, model.tokenizer, model.unet, model.scheduler, drift=drift
    )


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
def test_no_drift_is_plain_sampling_bit_for_bit_and_each_place_makes_another_image(tiny, scheduler: str):
    plain = images(tiny, scheduler=scheduler)
    assert np.array_equal(plain, images(tiny, scheduler=scheduler, drift=0.0, drift_where="per_step"))
    drifted = [images(tiny, scheduler=scheduler, drift=0.3, drift_where=w) for w in DRIFT_WHERE.choices]
    for index, one in enumerate(drifted):
        assert not any(np.array_equal(one, other) for other in [plain, *drifted[:index]])


def test_a_models_own_drift_is_the_default_and_may_be_set_aside(tiny):
    own = with_drift(tiny, Drift(0.3, "init_only", 25))
    assert np.array_equal(images(own), images(tiny, drift=0.3, drift_where="init_only"))
    assert np.array_equal(images(own, drift=0), images(tiny))
    other = images(own, drift_where="scaled_by_sigma")
    assert np.array_equal(other, images(tiny, drift=0.3, drift_where="scaled_by_sigma"))


def test_edits_drift_too(tiny):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)

    def edited(model: Components, **settings: Any) -> np.ndarray:
        sampling = Sampling(steps=4, guidance_scale=1.0, **settings)
        return edit(model, pixels, PROMPT, seed=0, sampling=sampling, strength=0.5).after

    plain, own = edited(tiny), with_drift(tiny, Drift(0.3))
    assert not np.array_equal(plain, edited(own)) and np.array_equal(plain, edited(own, drift=0.0))
    assert np.array_equal(edited(own), edited(tiny, drift=0.3))


def test_what_is_in_effect():
    own = Drift(0.1, "scaled_by_sigma", 25)

    def effective(drift: float | None, where: str | None) -> tuple[float | None, str | None]:
        found = in_effect(Sampling(drift=drift, drift_where=where), own)
        return found.drift, found.drift_where

    assert effective(None, None) == (0.1, "scaled_by_sigma")
    assert effective(0.2, None) == (0.2, "scaled_by_sigma")
    assert effective(None, "per_step") == (0.1, "per_step")
    assert effective(0, "per_step") == (0.0, None)
    assert in_effect(Sampling(drift=0.2), NONE).drift_where == "per_step"


def test_another_number_of_steps_than_delta_was_chosen_with_is_warned_of():
    (said,) = drift_notes(Sampling(steps=50), Drift(0.1, "per_step", 25))
    assert "each of 50 steps" in said and "chosen with 25" in said
    for sampling, drift in (
        (Sampling(steps=25), Drift(0.1, "per_step", 25)),
        (Sampling(steps=50), Drift(0.1, "init_only", 25)),
        (Sampling(steps=50, drift=0.0), Drift(0.1, "per_step", 25)),
        (Sampling(steps=50, drift=0.1), NONE),
    ):
        assert drift_notes(sampling, drift) == []
    (said,) = drift_notes(Sampling(drift_where="per_step"), NONE)
    assert "acts on nothing" in said


@pytest.mark.parametrize(("field", "value"), [("drift", 1.5), ("drift", math.nan), ("drift_where", "x")])
def test_settings_out_of_range_are_refused(field: str, value: Any):
    with pytest.raises(InputError, match=field):
        Sampling(**{field: value})


# --- what lies in files


def test_a_checkpoints_drift_is_its_models_and_a_later_run_without_takes_it_away(tiny, tmp_path: Path):
    save_pipeline(tiny, tmp_path / "base")
    weights = shifted(tiny, "unet", 0.0)
    recorded = {"delta": 0.1, "where": "init_only", "steps": 20}
    names = [str(tmp_path / name) for name in ("base", "one", "two", "vae")]
    for below, name, methods, drift in (
        (names[0], names[1], {"unet": "full"}, recorded),
        (names[1], names[2], {"unet": "full"}, {"delta": 0.0, "where": "per_step", "steps": None}),
        (names[1], names[3], {"vae": "decoder"}, None),
    ):
        part = "vae" if "vae" in methods else "unet"
        weights = shifted(tiny, part, 0.0)
        write_checkpoint(FolderStorage(Path(name)), below, methods, weights, weights, drift=drift)
    assert [recorded_drift(resolve(name)) for name in names] == [
        NONE,
        Drift(0.1, "init_only", 20),
        NONE,
        Drift(0.1, "init_only", 20),
    ]
    description = tmp_path / "one" / "checkpoint.json"
    description.write_text(description.read_text().replace("init_only", "nowhere"))
    with pytest.raises(InputError, match=r"damaged.*drift"):
        recorded_drift(resolve(names[1]))


def test_images_say_what_was_in_effect(tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    save_pipeline(with_drift(tiny, Drift(0.1, "per_step", 7)), tmp_path / "model")
    generate(str(tmp_path / "model"), str(tmp_path / "out"), prompts=[PROMPT], num_images=1, seed=0,
             sampling=Sampling(steps=2), use_gpu=False)  # fmt: skip
    assert "chosen with 7" in capsys.readouterr().out
    plan = json.loads((tmp_path / "out" / "generated.json").read_text())
    assert (plan["drift"], plan["drift_where"]) == (0.1, "per_step")
    text = Image.open(tmp_path / "out" / "00000.png").info
    assert (text["drift"], text["drift_where"]) == ("0.1", "per_step")


@pytest.mark.parametrize(
    ("where", "prediction"),
    [*((where, "epsilon") for where in DRIFT_WHERE.choices), ("scaled_by_sigma", "v_prediction")],
)
def test_the_cards_lines_make_the_same_image_in_a_plain_pipeline(tmp_path: Path, where: str, prediction):
    drift = Drift(0.25, where, 25)
    model = with_drift(tiny_components(prediction_type=prediction), drift)
    save_pipeline(model, tmp_path)
    assert load_components(str(tmp_path)).drift == drift
    code = drift_section(drift, prediction, (4, 8, 8), swapped=False)
    assert drift_section(NONE, prediction, (4, 8, 8), swapped=False) == ""
    lines = [line[4:] for line in code.splitlines() if line.startswith("    ")]
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    noise = keyed_noise(1, [0], (4, 8, 8), "sample")
    *before, call = lines
    names: dict[str, Any] = {"pipeline": pipeline, "noise": noise}
    exec("\n".join(line for line in before if not line.startswith("noise = ")), names)
    assert any(line.startswith("noise = torch.randn(1, 4, 8, 8)") for line in before)
    settings = ', num_inference_steps=2, guidance_scale=1.0, output_type="np").images[0]'
    made = eval(call.replace(").images[0]", settings), names)
    wanted = images(model)[0]
    assert np.abs(wanted.astype(int) - (made * 255).round().astype(int)).max() <= 2
