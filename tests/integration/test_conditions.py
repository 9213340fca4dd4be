"""A condition's way from the column of a CSV to an image, on any number of workers, and out of the house."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import medsd_here
from PIL import Image
from plain_workers import Pool
from run_records import half_of, losses
from tiny import tiny_components

from medsd_ray.models.load import load_components
from medsd_ray.models.save import save_pipeline
from medsd_ray.runs.checkpoints import describe_checkpoint
from medsd_ray.spec.load import parse_run
from medsd_ray.spec.run import RunSpec
from medsd_ray.storage import FolderStorage
from medsd_ray.training.checks import check_inputs
from medsd_ray.training.manifest import manifest

STEPS, HALF = 4, 2
CONDITIONS = {
    "lung": {"kind": "mask"},
    "years": {"kind": "number", "field": "age", "range": [0, 100]},
    "sex": {"kind": "category"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, and latents of images with a mask, an age and a sex each, but for some."""
    root = tmp_path_factory.mktemp("conditions")
    save_pipeline(tiny_components(), root / "model")
    images, rng = root / "images", np.random.default_rng(0)
    images.mkdir()
    rows = [("image", "patient_id", "report", "age", "sex", "lung")]
    for number in range(40):
        mask = np.zeros((16, 16), np.uint8)
        mask[2 : 8 + number % 6, 3:12] = 255
        Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(images / f"{number}.png")
        Image.fromarray(mask).save(images / f"mask-{number}.png")
        known = (
            str(20 + number) if number % 5 else "",
            "FM"[number % 2],
            f"mask-{number}.png" if number % 4 else "",
        )
        rows.append((f"{number}.png", f"p{number}", "A chest x-ray.", *known))
    with (images / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    for words in (
        ("prepare", images, root / "shards", "--mask-column", "lung", "--size", 16, "--splits", "0.8,0.2,0"),
        ("encode", root / "shards", root / "latents", "--model", root / "model"),
    ):
        done = medsd_here(*words)
        assert done.returncode == 0, done.stderr
    return root


def spec(root: Path, output: str, workers: int, stage: int) -> RunSpec:
    return parse_run(
        {
            "name": "test",
            "model": str(root / "model"),
            "data": {"train": str(root / "latents")},
            "components": {"unet": "lora"},
            "conditions": CONDITIONS,
            "training": {
                "max_steps": STEPS,
                "global_batch_size": 8,
                "learning_rate": 1e-2,
                "log_every": 1,
                "zero_stage": stage,
                "sample_every": STEPS,
                "sample_prompts": ["A chest x-ray."],
            },
            "checkpoint": {"every_steps": HALF},
            "resources": {"num_workers": workers},
            "output": str(root / output),
        }
    )


@pytest.fixture(scope="module")
def trained(root: Path, one_worker: Pool) -> Path:
    one_worker.train(spec(root, "one", 1, 0))
    return root / "one"


@pytest.fixture(scope="module")
def images(root: Path, trained: Path) -> Path:
    """Two images of one noise, the second of another age, after the masks of the shards."""
    (root / "table.csv").write_text(
        'prompt,conditions,count\nA chest x-ray.,years=20,1\nA chest x-ray.,"years=90; sex=M",1\n'
    )
    made(
        trained,
        root / "images-out",
        "--table",
        root / "table.csv",
        "--masks",
        root / "shards",
        "--condition",
        "sex=F",
    )
    return root / "images-out"


def made(model: Path, out: Path, *words: object) -> None:
    done = medsd_here("generate", model, "--out", out, "--steps", 2, *words)
    assert done.returncode == 0, done.stderr


def pixels(folder: Path, name: str = "00000.png") -> np.ndarray:
    return np.asarray(Image.open(folder / name))


def test_conditions_are_trained_and_resumed_on_other_workers_and_stages(
    root: Path, trained: Path, two_workers: Pool
):
    half_of(root, "one", "two", STEPS)
    two_workers.train(spec(root, "two", 2, 3))
    torch.testing.assert_close(losses(root, "two"), losses(root, "one"), atol=1e-5, rtol=0)
    module = load_components(str(trained), only=("unet", "scheduler"), raw=True).conditions
    twin = load_components(str(root / "two"), only=("unet", "scheduler"), raw=True).conditions
    assert module and twin
    for name, value in module.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    assert module.mask_in and module.mask_in.weight.abs().max() > 0  # where it began
    assert (trained / f"samples/step-{STEPS:08d}/00.png").is_file()


def test_what_the_data_decide_is_recorded(root: Path, trained: Path):
    run = spec(root, "one", 1, 0)
    known = manifest(run, check_inputs(run))["conditions"]
    assert {name: one["samples"] for name, one in known.items()} == {"lung": 26, "years": 24, "sex": 32}
    assert known["sex"]["values"] == ["F", "M"] and known["years"]["field"] == "age"
    recorded = describe_checkpoint(FolderStorage(trained / f"checkpoints/step-{STEPS:08d}"))
    assert recorded["conditions"]["image_size"] == [16, 16] and recorded["conditions"]["latent_factor"] == 2
    assert recorded["components"] == {"unet": "lora", "conditions": "concat"}


def test_an_image_follows_its_conditions_and_says_them(root: Path, trained: Path, images: Path):
    plan = json.loads((images / "generated.json").read_text())
    first, second = plan["images"]
    assert first["conditions"] == {"years": 20.0, "sex": "F"} and second["conditions"]["sex"] == "M"
    assert plan["guidance"] == "joint" and plan["masks"]["sets"] == 2
    notes: dict = Image.open(images / "00001.png").info
    assert json.loads(notes["conditions"]) == second["conditions"] and notes["mask_set"] == second["mask_set"]
    for name, words in {"plain": (), "old": ("--condition", "years=20", "--condition", "sex=F")}.items():
        made(trained, root / name, "--prompt", "A chest x-ray.", *words)
        assert (pixels(root / name) != pixels(images)).any()
    assert (pixels(root / "plain") != pixels(root / "old")).any()
    # The images can be trained on: their table names conditions and masks as `prepare` takes them.
    done = medsd_here(
        "prepare", images, root / "again", "--mask-column", "lung", "--size", 16, "--splits", "1,0,0"
    )
    assert done.returncode == 0, done.stderr
    index = json.loads((root / "again/train/index.json").read_text())
    assert index["masks"] == {"lung": 2} and index["labels"]["sex"] == {"F": 1, "M": 1}


def test_an_export_is_generated_from_as_the_checkpoint_is(root: Path, trained: Path, images: Path):
    done = medsd_here(
        "export", trained, root / "export", "--without-memorisation-check", "a test of random images"
    )
    assert done.returncode == 0, done.stderr
    made(
        root / "export",
        root / "exported",
        "--table",
        root / "table.csv",
        "--masks",
        root / "shards",
        "--condition",
        "sex=F",
    )
    assert np.array_equal(pixels(root / "exported", "00001.png"), pixels(images, "00001.png"))
