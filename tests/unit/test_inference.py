"""How images and latents are computed is in effect, is on record, and changes them by rounding alone."""

from __future__ import annotations

from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_components
from torch._dynamo.utils import counters

from medsd_ray.data.dataset import ShardedDataset
from medsd_ray.data.shards import Sample, ShardWriter, read_index
from medsd_ray.errors import InputError
from medsd_ray.generation.asked import Asked
from medsd_ray.generation.encode import encode
from medsd_ray.generation.generate import make_plan
from medsd_ray.generation.sampling import sample_images
from medsd_ray.models.inference import Inference, inference_settings
from medsd_ray.models.save import save_pipeline
from medsd_ray.spec.images import Sampling
from medsd_ray.storage import open_storage


def test_half_precision_and_compilation_are_for_gpus_unless_asked_for():
    def chosen(use_gpu: bool, precision: str | None, compile: bool | None, images: int = 100) -> Inference:
        return inference_settings(use_gpu, precision, compile, images=images, compile_from=100)

    assert chosen(True, None, None) == Inference(True, "bf16", True)
    assert chosen(True, "auto", None, 99) == Inference(True, "bf16", False)
    assert chosen(True, "fp32", False) == Inference(True, "fp32", False)
    assert chosen(False, None, None) == chosen(False, "auto", False) == Inference(False, "fp32", False)
    assert chosen(False, "fp16", True, 1) == Inference(False, "fp16", True)
    with pytest.raises(InputError, match="'half'; choose fp32, bf16, fp16 or auto"):
        chosen(True, "half", None)


@pytest.fixture(autouse=True)
def _captured_alone(monkeypatch: pytest.MonkeyPatch):
    """What is compiled is captured but not turned into C++, which takes minutes; trainings' tests do that."""
    compile = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(compile, backend="aot_eager"))
    yield
    torch._dynamo.reset()


def images(how: Inference) -> np.ndarray:
    components = tiny_components(0)
    components.for_inference(how)
    components.for_inference(how)  # as each task of a worker does
    made = sample_images(components, ["effusion"] * 2, [0, 1], seed=3, sampling=Sampling(steps=2))
    assert {p.dtype for p in components.unet.parameters()} == {
        torch.bfloat16 if how.precision == "bf16" else torch.float32
    }
    return made.astype(int)


def test_images_in_half_precision_are_those_of_single_precision_but_for_rounding():
    difference = np.abs(images(Inference()) - images(Inference(precision="bf16")))
    assert difference.max() > 0 and difference.mean() < 4


def test_images_of_a_compiled_model_are_the_same_but_for_rounding():
    plain = images(Inference())
    counters.clear()
    compiled = images(Inference(compile=True))
    assert counters["stats"]["unique_graphs"] > 0
    assert np.abs(plain - compiled).max() <= 1


def test_the_record_says_how_images_are_made():
    plan = make_plan("m", "f", Asked(["a"], [{}]), 1, 0, Sampling(), Inference(True, "bf16", True))
    assert (plan["precision"], plan["compile"]) == ("bf16", True)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Five images in one shard: a batch of three, and one that is not full."""
    folder = tmp_path_factory.mktemp("shards")
    writer = ShardWriter(open_storage(str(folder / "train")), 2**20, "image", "train", size=16)
    rng = np.random.default_rng(0)
    for number in range(5):
        image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        writer.write(Sample(f"{number}", image, f"X-ray {number}", "patient", {}))
    writer.finish()
    return str(folder)


@pytest.mark.parametrize(("how", "least", "most"), [
    ({"precision": "bf16"}, 1e-4, 0.1),
    ({"compile": True}, 0, 1e-4),
])  # fmt: skip
def test_latents_are_the_same_but_for_rounding(
    shards: str, tmp_path: Path, how: dict, least: float, most: float
):
    save_pipeline(tiny_components(), tmp_path / "model")
    means = {}
    for name, settings in (("plain", {}), ("other", how)):
        counters.clear()
        out = str(tmp_path / name)
        encode(shards, out, model=str(tmp_path / "model"), batch_size=3, **settings)
        # The VAE's encoder, once: the last batch is no other shape.
        assert counters["stats"]["unique_graphs"] == ("compile" in settings)
        meta = read_index(out, "train").meta
        assert {"precision": "fp32", "compile": False} | settings == {
            field: meta[field] for field in ("precision", "compile")
        }
        dataset = ShardedDataset(out, "train", seed=0)
        means[name] = torch.stack([dataset.sample_at(position)["mean"] for position in range(5)])
    difference = (means["plain"] - means["other"]).abs().max().item()
    assert least <= difference <= most
