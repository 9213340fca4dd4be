"""An image depends on model, prompt, settings, seed and index alone; and what its file says of it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image
from tiny import tiny_components

from medsd_ray.base_model.architecture import build_small
from medsd_ray.data.randomness import keyed_noise
from medsd_ray.errors import InputError, RunError
from medsd_ray.generation.png import NOTICE, encode_png
from medsd_ray.generation.prompts import read_prompts
from medsd_ray.generation.sampling import SCHEDULERS, image_size, sample_images
from medsd_ray.models.schedulers import load_scheduler, sampling_scheduler, trailing_timesteps
from medsd_ray.spec.images import SCHEDULER, Sampling

WORDS = ["a chest x-ray", "The heart is enlarged.", ""]


@pytest.fixture(scope="module")
def small():
    return build_small(0)


@pytest.fixture(scope="module")
def tiny():
    return tiny_components()


def prompts(indices) -> list[str]:
    return [WORDS[index % len(WORDS)] for index in indices]


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
def test_an_image_is_the_same_pixel_for_pixel_in_any_batch_and_number_of_threads(small, scheduler):
    sampling = Sampling(scheduler=scheduler, steps=2, guidance_scale=3.0)
    indices = list(range(11))
    together = sample_images(small, prompts(indices), indices, seed=5, sampling=sampling)
    assert together.shape == (11, 64, 64, 3) and together.dtype == np.uint8
    threads = torch.get_num_threads()
    try:
        for size, count in ((1, 2), (3, 1)):
            torch.set_num_threads(count)
            for start in range(0, 11, 4 * size):
                some = indices[start : start + size][::-1]
                alone = sample_images(small, prompts(some), some, seed=5, sampling=sampling)
                assert np.array_equal(alone, together[some])
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)


def test_seed_index_and_prompt_each_change_the_image(tiny):
    def one(prompt="a chest x-ray", index=0, seed=0):
        return sample_images(
            tiny, [prompt], [index], seed=seed, sampling=Sampling(steps=2, guidance_scale=30)
        )[0]

    images = [one(), one(index=1), one(seed=1), one(prompt="The heart is enlarged."), one()]
    assert np.array_equal(images[0], images[4])
    assert all(not np.array_equal(images[0], image) for image in images[1:4])


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_the_image_is_that_of_diffusers_own_pipeline(tiny, guidance_scale):
    """The same latents, prompt and settings in a plain call give the same image but for rounding."""
    pipeline = StableDiffusionPipeline(
        tiny.vae, tiny.text_encoder, tiny.tokenizer, tiny.unet,
        sampling_scheduler(tiny.scheduler, SCHEDULERS["ddim"]),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        "a chest x-ray", negative_prompt="noise", latents=keyed_noise(7, [3], (4, 8, 8), "sample"),
        guidance_scale=guidance_scale, num_inference_steps=5, output_type="np",
    ).images  # fmt: skip
    sampling = Sampling(negative_prompt="noise", guidance_scale=guidance_scale, scheduler="ddim", steps=5)
    image = sample_images(tiny, ["a chest x-ray"], [3], seed=7, sampling=sampling)
    assert np.abs(image / 255 - expected).max() < 1.01 / 255


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_samplers_recover_a_known_image_exactly(scheduler, prediction_type):
    """With a perfect predictor for data that is one point x0, every sampler must end at x0, from the first
    step on.
    """
    noise_scheduler = tiny_components(prediction_type=prediction_type).scheduler
    x0, sampler = torch.full((1, 4, 8, 8), 0.7), sampling_scheduler(noise_scheduler, SCHEDULERS[scheduler])
    sampler.set_timesteps(5)
    assert sampler.timesteps[0] == 999
    x = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    for t in sampler.timesteps:
        alpha = noise_scheduler.alphas_cumprod[int(t)]
        epsilon = (x - alpha.sqrt() * x0) / (1 - alpha).sqrt()
        v = alpha.sqrt() * epsilon - (1 - alpha).sqrt() * x0
        x = sampler.step(epsilon if prediction_type == "epsilon" else v, t, x, return_dict=False)[0]
    assert torch.allclose(x, x0, atol=1e-4)


def arrived(sampler, noise, steps: int, std: float) -> tuple[float, float]:
    """The spread that data N(0, std²) keep when they are sampled with a perfect predictor, by the sampler and
    by DDIM's recurrence in float64 (Song et al. 2021, arXiv 2010.02502, eq. 12), from x = 1 at the first.
    """
    sampler.set_timesteps(steps)
    alphas = noise.alphas_cumprod.double()
    taken = sampler.timesteps.tolist()
    x, exact = torch.ones(1, dtype=torch.float64), 1.0
    for t, after in zip(taken, [*taken[1:], None], strict=True):
        a, b = alphas[t], torch.tensor(1.0).double() if after is None else alphas[after]
        slope = (1 - a).sqrt() / (a * std**2 + 1 - a)  # E[epsilon | x] of Gaussian data, over x
        x = sampler.step(slope * x, t, x, return_dict=False)[0].double()
        exact *= float(b.sqrt() * (1 - (1 - a).sqrt() * slope) / a.sqrt() + (1 - b).sqrt() * slope)
    return float(x), exact


def test_there_are_as_many_timesteps_as_asked_for_at_every_count():
    for steps in range(1, 1001):
        timesteps = trailing_timesteps(1000, steps)
        assert len(timesteps) == steps and timesteps[0] == 999 and timesteps[-1] >= 0
        assert (np.diff(timesteps) < 0).all()
    assert trailing_timesteps(1000, 1000).tolist() == list(range(999, -1, -1))
    assert trailing_timesteps(1000, 3).tolist() == [999, 666, 332]


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
def test_each_step_lands_on_the_next_timestep_and_the_last_on_the_data(scheduler):
    noise = tiny_components().scheduler
    sampler = sampling_scheduler(noise, SCHEDULERS[scheduler])
    theirs = DPMSolverMultistepScheduler(timestep_spacing="trailing")
    levels = ((1 - noise.alphas_cumprod) / noise.alphas_cumprod).sqrt()
    for steps in (1, 2, 25, 48, 50, 61, 103, 121, 122, 201, 400, 501, 999, 1000):
        sampler.set_timesteps(steps)
        assert sampler.timesteps.tolist() == trailing_timesteps(1000, steps).tolist()
        torch.testing.assert_close(sampler.sigmas[:-1], levels[sampler.timesteps])
        assert sampler.sigmas[-1] == 0
        theirs.set_timesteps(steps)  # where diffusers counts right, its timesteps are the same
        assert len(theirs.timesteps) > steps or torch.equal(sampler.timesteps, theirs.timesteps)


@pytest.mark.parametrize("steps", [1, 7, 50, 61, 103, 400, 501, 999, 1000])
def test_ddim_keeps_the_spread_of_gaussian_data_as_its_recurrence_does(steps):
    noise = tiny_components().scheduler
    sampler = sampling_scheduler(noise, SCHEDULERS["ddim"])
    start = float((noise.alphas_cumprod[-1] * 0.25 + 1 - noise.alphas_cumprod[-1]).sqrt())
    found, exact = arrived(sampler, noise, steps, 0.5)
    assert found == pytest.approx(exact, abs=1e-4)
    if steps >= 400:
        assert found * start == pytest.approx(0.5, rel=0.01)


def test_more_steps_than_the_schedule_has_are_refused():
    sampler = sampling_scheduler(DDPMScheduler(num_train_timesteps=100), SCHEDULERS["ddim"])
    sampler.set_timesteps(100)
    assert sampler.timesteps.tolist() == list(range(99, -1, -1))
    with pytest.raises(InputError, match=r"steps is 101.*has 100"):
        sampler.set_timesteps(101)


def test_a_model_that_predicts_the_image_itself_is_refused(tmp_path):
    DDPMScheduler(prediction_type="sample").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="'sample'; only models that predict epsilon or v_prediction"):
        load_scheduler(tmp_path)


def test_the_model_decides_the_size(small, tiny):
    assert image_size(small) == (64, 64) and image_size(tiny) == (16, 16)
    assert sample_images(tiny, [""], [0], seed=0, sampling=Sampling(steps=1)).shape == (1, 16, 16, 3)
    assert sample_images(tiny, [], [], seed=0).shape == (0, 16, 16, 3)


def test_a_diverged_model_is_named_as_such():
    broken = tiny_components()
    broken.unet.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(RunError, match="not numbers"):
        sample_images(broken, ["x"], [0], seed=0, sampling=Sampling(steps=1))


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("steps", 1001), ("scheduler", "euler"), ("guidance_scale", 0.5), ("guidance_scale", 1e9)],
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(InputError, match=f"{field}.*{value}"):
        Sampling(**{field: value})


def test_each_scheduler_that_may_be_named_has_a_sampler():
    assert tuple(SCHEDULERS) == SCHEDULER.choices


def test_a_png_keeps_pixels_and_text():
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)
    picture = Image.open(io.BytesIO(encode_png(colour, {"prompt": "Größe 3 mm, 肺", "notice": NOTICE})))
    assert picture.mode == "RGB" and np.array_equal(np.asarray(picture), colour)
    assert picture.text == {"prompt": "Größe 3 mm, 肺", "notice": NOTICE} and "research use only" in NOTICE
    gray = np.repeat(rng.integers(0, 256, (8, 10, 1), dtype=np.uint8), 3, axis=2)
    picture = Image.open(io.BytesIO(encode_png(gray, {})))
    assert picture.mode == "L" and np.array_equal(np.asarray(picture), gray[..., 0])


def test_prompts_from_a_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffa chest x-ray\n\n  Größe normal \n", encoding="utf-8")
    assert read_prompts(None, path) == ["a chest x-ray", "Größe normal"]
    assert read_prompts("one", None) == ["one"]


def test_prompts_that_cannot_be_read(tmp_path):
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text("\n \n")
    binary.write_bytes(b"\xff\xfe\x00")
    for prompt, path, reason in (
        (None, None, "either"),
        ("one", empty, "either"),
        (None, empty, "no prompt in this file"),
        (None, binary, "not UTF-8"),
        (None, tmp_path, "text file"),
        (None, tmp_path / "none.txt", "text file"),
    ):
        with pytest.raises(InputError, match=reason):
            read_prompts(prompt, path)
