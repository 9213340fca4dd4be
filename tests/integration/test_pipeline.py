"""Every verb in turn through a real S3 server, two Ray Train workers and DeepSpeed, as a user types them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml
from command import done
from PIL import Image

from medsd_ray.base_model.architecture import build_small
from medsd_ray.models.save import save_pipeline
from medsd_ray.storage import Storage, open_storage

PROMPTS = ["No acute cardiopulmonary abnormality.", "Large left pleural effusion."]


@pytest.fixture
def bucket(s3: str) -> Storage:
    return open_storage(s3)


@pytest.mark.timeout(1800)  # about four minutes on two idle cores
def test_prepare_to_report_through_s3(bucket: Storage, tmp_path: Path):
    url = bucket.url
    save_pipeline(build_small(0), tmp_path / "model")
    bucket.child("model").upload_tree(tmp_path / "model")

    # prepare: shards of drawn phantoms, the indexes last; a second time it changes nothing
    prepare = ["prepare", 120, f"{url}/shards", "--kind", "phantom", "--size", 64, "--shard-size", "128KiB"]
    done(*prepare, "--splits", "0.5,0.25,0.25")
    index = bucket.child("shards").read_json("train/index.json")
    assert index["samples"] == sum(shard["samples"] for shard in index["shards"]) >= 40
    assert len(index["shards"]) > 1
    before = etags(bucket)
    done(*prepare, "--splits", "0.5,0.25,0.25")
    assert etags(bucket) == before

    # encode: the same samples as latents
    done(
        "encode",
        f"{url}/shards",
        f"{url}/latents",
        "--model",
        f"{url}/model",
        "--num-workers",
        2,
        "--no-text-embeddings",
    )
    latents = bucket.child("latents").read_json("train/index.json")
    assert (latents["kind"], latents["samples"]) == ("latent", index["samples"])

    # train: two workers, ZeRO stage 2
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "pipeline",
                "model": f"{url}/model",
                "data": {"train": f"{url}/latents"},
                "components": {"unet": "full", "text_encoder": {"method": "full", "learning_rate": 1e-5}},
                "training": {"max_steps": 4, "global_batch_size": 8, "log_every": 1},
                "checkpoint": {"every_steps": 2},
                "output": f"{url}/run",
            }
        )
    )
    done("train", tmp_path / "run.yaml", "--set", "resources.num_workers=2", "--set", "training.zero_stage=2")
    run = bucket.child("run")
    for step in (2, 4):
        checkpoint = run.child(f"checkpoints/step-{step:08d}")
        assert {"rank-00000.safetensors", "rank-00001.safetensors", "checkpoint.json"} <= set(
            checkpoint.complete() or {}
        )
    result = run.read_json("result.json")
    assert (result["world_size"], result["zero_stage"]) == (2, 2)
    assert result["images_per_second"] > 0 and result["optimizer_bytes_per_worker"] > 0
    assert run.read_json("manifest.json")

    # generate, with the adapted model and the one before
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    generate = ["--prompts", tmp_path / "prompts.txt", "--num-images", 16, "--steps", 4, "--seed", 1]
    done("generate", f"{url}/run", *generate, "--num-workers", 2, "--out", f"{url}/images")
    done("generate", f"{url}/model", *generate, "--out", f"{url}/base")
    images = bucket.child("images")
    assert len([name for name in images.complete() or {} if name.endswith(".png")]) == 16
    image = Image.open(io.BytesIO(images.read("00001.png")))
    assert image.size == (64, 64)
    assert image.info["prompt"] == PROMPTS[1] and image.info["seed"] == "1"

    # the checkpoint that the run chose made them, and the other one is to be had
    chosen = result["chosen_checkpoint"]
    why = f"the lowest validation loss, {chosen['value']:.5g}"
    assert chosen["step"] in (2, 4) and chosen["why"] == why
    assert images.read_json("generated.json")["checkpoint"] == {"step": chosen["step"], "why": why}
    assert (image.info["step"], image.info["why_this_step"]) == (str(chosen["step"]), why)
    other = 6 - chosen["step"]
    done("generate", f"{url}/run", "--prompt", PROMPTS[0], "--steps", 2, "--step", other, "--out", f"{url}/o")
    of_other, of_chosen = (bucket.child(name).read_json("generated.json") for name in ("o", "images"))
    assert of_other["checkpoint"] == {"step": other, "why": "asked for by name"}
    assert of_other["model_fingerprint"] != of_chosen["model_fingerprint"]

    # evaluate: every figure is there, or null with its reason
    done("evaluate", "--real", f"{url}/shards", "--generated", f"{url}/images", "--base", f"{url}/base",
         "--run", f"{url}/run", "--out", f"{url}/report")  # fmt: skip
    report = bucket.child("report").read_json("report.json")
    assert report["train"]["images_per_second"] == result["images_per_second"]
    assert report["train"]["optimizer_bytes_per_worker"] == result["optimizer_bytes_per_worker"]
    assert report["train"]["compute_dtype"] == "text_encoder: float32, unet: float32"
    assert_figures_or_reasons(report)
    page = bucket.child("report").read("report.html").decode()
    assert "<img" in page and f"checkpoint of step <b>{chosen['step']}</b>: {why}" in page

    # export: diffusers itself loads the folder and samples from it
    reason = "a test on drawn images"
    done("export", f"{url}/run", tmp_path / "pipeline", "--without-memorisation-check", reason)
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    sample = pipeline(PROMPTS[0], num_inference_steps=2, height=64, width=64).images[0]  # pyright: ignore
    assert sample.size == (64, 64)


def etags(bucket: Storage) -> dict[str, bytes]:
    return {key: bucket.read(key) for key in bucket.list("shards/")}


def assert_figures_or_reasons(report: dict) -> None:
    figures = {
        "fid": ["generated", "real", "base", "extractor"],
        "ms_ssim": ["generated", "real"],
        "classifier": ["real_heldout_accuracy", "generated_accuracy"],
    }
    for group, names in figures.items():
        for name in names:
            assert name in report[group], f"{group}.{name}"
            if report[group][name] is None:
                assert report[group][f"{name}_reason"], f"{group}.{name} is null without its reason"
    assert report["counts"] and report["versions"]
