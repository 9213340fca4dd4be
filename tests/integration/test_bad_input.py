"""What a user sees when the input is bad: exit code 2, one line that names the thing, and what was fine is
kept. Each verb has a test in a process of its own; the other tests run it here.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from command import assert_done, assert_refused, medsd, medsd_here
from PIL import Image

from medsd_ray.base_model.architecture import build_small
from medsd_ray.data.sources.phantom import draw_phantom
from medsd_ray.models.save import save_pipeline
from medsd_ray.storage import open_storage

ROWS = 12


@pytest.fixture
def xrays(tmp_path: Path) -> Path:
    """A folder of images with its metadata.csv, as a hospital might send it."""
    folder = tmp_path / "xrays"
    folder.mkdir()
    with (folder / "metadata.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "patient_id", "finding", "report"])
        for index in range(ROWS):
            sample = draw_phantom(0, index, 64, "left" if index % 2 else None)
            Image.fromarray(np.asarray(sample.image)).save(folder / f"{index}.png")
            rows.writerow([f"{index}.png", f"p{index}", sample.labels["finding"], sample.caption])
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_pipeline(build_small(0), folder)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "shards"
    drawn = ("--kind", "phantom", "--size", 64, "--shard-size", "32KiB", "--splits", "0.8,0.1,0.1")
    assert_done(medsd_here("prepare", 40, folder, *drawn))
    return folder


def run_file(folder: Path, **changes) -> Path:
    values = {
        "name": "bad",
        "data": {"train": str(folder / "latents")},
        "components": {"unet": "full", "text_encoder": "full"},
        "training": {"max_steps": 1, "global_batch_size": 2},
        "output": str(folder / "run"),
    }
    path = folder / "RUN.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path


def kept_samples(shards: Path) -> int:
    return sum(
        open_storage(path.parent).read_json("index.json")["samples"] for path in shards.glob("*/index.json")
    )


def test_a_truncated_png(xrays: Path, tmp_path: Path):
    damaged = xrays / "3.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert_refused(medsd("prepare", xrays, tmp_path / "out", "--size", 64), "3.png")
    assert kept_samples(tmp_path / "out") == ROWS - 1


def test_a_row_without_its_file(xrays: Path, tmp_path: Path):
    (xrays / "5.png").unlink()
    assert_refused(medsd_here("prepare", xrays, tmp_path / "out", "--size", 64), "5.png")
    assert kept_samples(tmp_path / "out") == ROWS - 1


def test_a_corrupt_shard(shards: Path, model: Path, tmp_path: Path):
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    names = sorted(path.name for path in (copy / "train").glob("*.tar"))
    damaged = copy / "train" / names[-1]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)

    result = medsd("encode", copy, tmp_path / "latents", "--model", model)
    assert_refused(result, str(damaged), "checksum")
    assert (
        len(list((tmp_path / "latents" / "train").glob("*.safetensors"))) == len(names) - 1
    )  # what was fine is kept
    assert not (tmp_path / "latents" / "train" / "index.json").exists()

    shutil.copy(shards / "train" / names[-1], damaged)
    assert_done(medsd_here("encode", copy, tmp_path / "latents", "--model", model))
    assert len(list((tmp_path / "latents" / "train").glob("*.safetensors"))) == len(names)


def test_a_corrupt_latent_shard(shards: Path, model: Path, tmp_path: Path):
    assert_done(medsd_here("encode", shards, tmp_path / "latents", "--model", model))
    damaged = sorted((tmp_path / "latents" / "train").glob("*.safetensors"))[0]
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    # A batch of everything, so that the first step meets the damage.
    samples = open_storage(tmp_path / "latents").read_json("train/index.json")["samples"]
    path = run_file(tmp_path, model=str(model), training={"max_steps": 1, "global_batch_size": samples})
    assert_refused(medsd("train", path), damaged.name, "checksum")


@pytest.mark.parametrize("verb", ["prepare", "train", "generate"])
def test_a_missing_bucket(s3: str, model: Path, tmp_path: Path, verb: str):
    nowhere = "s3://medsd-no-such-bucket/data"
    words = {
        "prepare": ["prepare", 4, nowhere, "--kind", "phantom", "--size", 64],
        "train": ["train", run_file(tmp_path, data={"train": nowhere})],
        "generate": ["generate", model, "--prompt", "a chest x-ray", "--out", nowhere],
    }
    run = medsd if verb == "generate" else medsd_here
    assert_refused(run(*words[verb]), "medsd-no-such-bucket", "no bucket")


def test_wrong_credentials(s3: str, shards: Path, model: Path):
    words = ["encode", shards, f"{s3}/latents", "--model", model]
    assert_refused(medsd_here(*words, AWS_SECRET_ACCESS_KEY="wrong"), s3, "credentials")


def test_an_unknown_field_in_run_yaml(tmp_path: Path):
    assert_refused(medsd_here("train", run_file(tmp_path, learning_rat=1)), "RUN.yaml", "learning_rat")


def test_a_zero_batch(tmp_path: Path):
    path = run_file(tmp_path, training={"max_steps": 1, "global_batch_size": 0})
    assert_refused(medsd_here("train", path), "RUN.yaml", "training.global_batch_size")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["encode", "generate"])
def test_a_model_without_its_vae(shards: Path, model: Path, tmp_path: Path, verb: str):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    shutil.rmtree(folder / "vae")
    words = {
        "encode": ["encode", shards, tmp_path / "latents", "--model", folder],
        "generate": ["generate", folder, "--prompt", "a chest x-ray", "--out", tmp_path / "images"],
    }
    assert_refused(medsd_here(*words[verb]), str(folder), "vae")
