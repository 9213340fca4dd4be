"""Encoding and generating on a GPU: half precision and compiled code are in effect, and change images and
latents by rounding alone; code is compiled once, whatever the number of images.

`make test-gpu`, on a machine with a GPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_components
from torch._dynamo.utils import counters

from medsd_ray.data.dataset import ShardedDataset
from medsd_ray.data.shards import Sample, ShardWriter, read_index
from medsd_ray.generation.encode import encode
from medsd_ray.generation.generate import generate
from medsd_ray.models.save import save_pipeline
from medsd_ray.spec.images import Sampling
from medsd_ray.storage import open_storage

IMAGES = 11


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and images in shards of a few."""
    assert torch.cuda.is_available(), "these tests need a GPU"
    root = tmp_path_factory.mktemp("inference")
    save_pipeline(tiny_components(0), root / "model")
    writer = ShardWriter(open_storage(str(root / "shards/train")), 20_000, "image", "train", size=16)
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        writer.write(Sample(f"{number:02d}", image, f"X-ray {number}", "patient", {}))
    writer.finish()
    return root


def check_record(record: dict[str, Any], how: dict[str, Any]) -> None:
    assert {"precision": "bf16", "compile": False} | how == {
        name: record[name] for name in ("precision", "compile")
    }


def images(root: Path, name: str, **how: Any) -> np.ndarray:
    generate(
        str(root / "model"), str(root / name), prompts=["effusion"], num_images=IMAGES, seed=3,
        sampling=Sampling(steps=4), batch_size=4, use_gpu=True, **how,
    )  # fmt: skip
    record = json.loads((root / name / "generated.json").read_text())
    assert (record["precision"], record["compile"]) == (
        how.get("precision", "bf16"),
        how.get("compile", False),
    )
    return np.stack([np.asarray(Image.open(root / name / f"{i:05d}.png")) for i in range(IMAGES)]).astype(int)


def latents(root: Path, name: str, **how: Any) -> torch.Tensor:
    encode(
        str(root / "shards"), str(root / name), model=str(root / "model"), batch_size=4, use_gpu=True, **how
    )
    meta = read_index(str(root / name), "train").meta
    check_record(meta, how)
    dataset = ShardedDataset(str(root / name), "train", seed=0)
    return torch.stack([dataset.sample_at(position)["mean"] for position in range(IMAGES)])


def test_images_and_latents_are_in_bf16_unless_asked_for(root: Path):
    difference = np.abs(images(root, "images-bf16") - images(root, "images-fp32", precision="fp32"))
    assert difference.max() > 0 and difference.mean() < 4
    difference = (latents(root, "latents-bf16") - latents(root, "latents-fp32", precision="fp32")).abs()
    assert 1e-4 < difference.max() < 0.1


def test_compiled_code_makes_the_same_but_for_rounding_and_is_compiled_once(root: Path):
    plain = images(root, "images-plain", precision="fp32"), latents(root, "latents-plain", precision="fp32")
    counters.clear()
    compiled = images(root, "images-compiled", precision="fp32", compile=True)
    latents_compiled = latents(root, "latents-compiled", precision="fp32", compile=True)
    assert np.abs(plain[0] - compiled).max() <= 2
    torch.testing.assert_close(latents_compiled, plain[1], atol=1e-2, rtol=0)  # TF32 in other kernels
    # The U-Net and the VAE's halves, each once: neither the last batch nor the next shard is another shape.
    assert counters["stats"]["unique_graphs"] == 3
