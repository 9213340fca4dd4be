"""`medsd insert` on phantoms with medsd-small, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import assert_refused, medsd, medsd_here
from PIL import Image

from medsd_ray.data.prepare import prepare
from medsd_ray.data.shards import ShardWriter
from medsd_ray.data.sources.phantom import phantom_samples
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.errors import InputError
from medsd_ray.evaluation.insert import insert
from medsd_ray.evaluation.networks import classifier
from medsd_ray.spec.images import Sampling
from medsd_ray.storage import open_storage

SIZE = 64
PROMPT = "A chest x-ray. Heart size is normal. There is a large left pleural effusion."
quiet = lambda _: None


def write_shards(root: Path, size: int, counts: dict[str, int]) -> Path:
    rest = phantom_samples(sum(counts.values()), size, seed=1)
    for split, count in counts.items():
        writer = ShardWriter(open_storage(root / split), 1 << 20, "image", split, size=size)
        for _ in range(count):
            writer.write(next(rest))
        writer.finish()
    open_storage(root).write_json("index.json", {"format": "medsd-shards/1", "splits": list(counts)})
    return root


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(
        tmp_path_factory.mktemp("insert") / "shards", SIZE, {"train": 80, "validation": 10, "test": 20}
    )


@pytest.fixture(scope="module")
def detector(shards: Path) -> str:
    """Where the classifier is kept: trained by the first test, briefly, and read by the others."""
    return str(shards.parent / "detector")


@pytest.fixture(autouse=True, scope="module")
def short_training():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "PASSES", 300)
        yield


def test_inpainting_by_the_shards_masks(shards: Path, detector: str, tmp_path: Path, s3: str):
    out = f"{s3}/insertion"
    found = insert(
        "medsd-small",
        str(shards),
        out,
        prompt=PROMPT,
        num_images=3,
        sampling=Sampling(steps=3),
        detector=detector,
        say=quiet,
    )
    store = open_storage(out)
    assert store.read_json("insertion.json") == json.loads(json.dumps(found))
    assert sorted(store.complete() or {}) == [
        "00000.png",
        "00001.png",
        "00002.png",
        "insertion.json",
        "pictures.png",
    ]
    assert found["ssim_outside_against_reconstruction"] == pytest.approx(1.0, abs=1e-6)
    assert (
        found["ssim_outside"] == pytest.approx(found["ssim_outside_of_reconstruction"], abs=1e-6)
        and found["ssim_outside"] > 0.5
    )
    assert (
        "training images with this caption" in found["region"]["source"]
        and 0 < found["region"]["share_of_image"] < 0.5
    )
    response = found["response"]
    assert response["target"] == "Effusion" and set(response) >= {"before", "reconstruction", "after", "gain"}
    said: list[str] = []
    again = insert(
        "medsd-small",
        str(shards),
        out,
        prompt=PROMPT,
        num_images=3,
        sampling=Sampling(steps=3),
        detector=detector,
        say=said.append,
    )
    assert again == store.read_json("insertion.json") and "nothing to do" in said[0]
    with pytest.raises(InputError, match="other settings"):
        insert(
            "medsd-small",
            str(shards),
            out,
            prompt=PROMPT,
            num_images=2,
            sampling=Sampling(steps=3),
            say=quiet,
        )


def test_sdedit_without_a_mask_says_which_region(shards: Path, detector: str, tmp_path: Path):
    found = insert(
        "medsd-small",
        str(shards),
        str(tmp_path / "out"),
        prompt="an effusion",
        method="sdedit",
        num_images=2,
        sampling=Sampling(steps=4),
        strength=0.5,
        target="Effusion",
        detector=detector,
        say=quiet,
    )
    assert "changed most" in found["region"]["source"] and found["response"]["target"] == "Effusion"
    with Image.open(tmp_path / "out" / "00000.png") as image:
        assert image.size == (SIZE, SIZE) and "a real image changed by a model" in image.info["notice"]
    with Image.open(tmp_path / "out" / "pictures.png") as sheet:
        assert sheet.width > 4 * SIZE


def test_prompt_pairs_share_their_noise_and_a_mask_is_read(shards: Path, detector: str, tmp_path: Path):
    mask = np.zeros((128, 128), np.uint8)
    mask[64:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    found = insert(
        "medsd-small",
        str(shards),
        str(tmp_path / "out"),
        prompt="the same words",
        without="the same words",
        method="prompt",
        mask=tmp_path / "mask.png",
        num_images=2,
        sampling=Sampling(steps=2),
        detector=detector,
        say=quiet,
    )
    assert found["ssim_outside"] == pytest.approx(
        1.0, abs=1e-6
    )  # the same prompt from the same noise is the same image
    assert found["region"]["share_of_image"] == 0.5
    assert found["response"]["gain"] is None and "--target" in found["response"]["gain_reason"]
    assert "reconstruction" not in found["response"]


def test_a_first_visit_is_changed_and_set_beside_the_second(tmp_path: Path):
    root = str(tmp_path / "visits")
    prepare(SourceRequest("40", "phantom", size=SIZE, visits=2), root, splits="0.6,0.1,0.3")
    drifting = Sampling(steps=2, drift=0.1)
    found = insert(
        "medsd-small", root, str(tmp_path / "out"), method="pair", num_images=3, sampling=drifting, say=quiet
    )
    assert found["response"]["target"] == "Effusion" and found["settings"]["prompt"] is None
    assert (found["settings"]["sampling"]["drift"], found["settings"]["sampling"]["drift_where"]) == (
        0.1,
        "per_step",
    )
    assert 0 <= found["second_visit"]["nearer"] <= 1 and found["second_visit"]["before"]["ssim"] > 0
    assert {"psnr_outside", "perceptual_outside", "ssim_outside"} <= found.keys()
    with Image.open(tmp_path / "out" / "pictures.png") as sheet:
        assert sheet.width > 5 * SIZE  # the second visit is beside
    with Image.open(tmp_path / "out" / "00000.png") as image:
        assert "pleural effusion" in image.info["prompt"] and image.info["drift"] == "0.1"
    with pytest.raises(InputError, match=r"only \d+ patients of the test split have a first visit"):
        insert("medsd-small", root, str(tmp_path / "no"), method="pair", num_images=99, say=quiet)


def test_what_insert_refuses(shards: Path, tmp_path: Path):
    words = (
        "insert",
        "medsd-small",
        "--real",
        shards,
        "--out",
        tmp_path / "out",
        "--prompt",
        "no caption of these",
    )
    assert_refused(medsd(*words), "--mask", "sdedit")
    assert_refused(medsd_here(*words, "--method", "paint"), "paint")
    for options, said in [
        ({"method": "prompt", "strength": 0.5}, "--strength"),
        ({"without": "x"}, "--without"),
        ({"mask": tmp_path / "absent.png"}, "no such image"),
        ({"num_images": 0}, "num_images"),
        ({"prompt": None}, "--prompt is missing"),
        ({"method": "drift"}, "give --drift"),
        ({"method": "pair", "num_images": 1}, "label 'visit' tells visits apart"),
        ({"prompt": PROMPT, "strength": 2.0}, "strength is 2"),
        ({"prompt": PROMPT, "normal": "Fine"}, "'Fine'"),
        ({"prompt": PROMPT, "num_images": 999}, "lower --num-images"),
    ]:
        with pytest.raises(InputError, match=said) as caught:
            insert(
                "medsd-small",
                str(shards),
                str(tmp_path / "out"),
                **{"prompt": "no caption of these"} | options,
                say=quiet,
            )
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
