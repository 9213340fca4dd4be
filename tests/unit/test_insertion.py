"""What `medsd insert` measures, on phantoms whose anatomy and region are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from medsd_ray.data.shards import Sample, ShardWriter
from medsd_ray.data.sources.phantom import draw_phantom
from medsd_ray.errors import InputError
from medsd_ray.evaluation.estimates import Missing
from medsd_ray.evaluation.figures.identity import nearness, perceptual, psnr_outside
from medsd_ray.evaluation.figures.insertion import (
    CHANGED,
    CHANGED_MOST,
    REACH,
    Region,
    changed_most,
    masked_region,
    measure,
    ssim_outside,
)
from medsd_ray.evaluation.visit_pairs import visit_pairs
from medsd_ray.storage import open_storage

SIZE = 64


@pytest.fixture(scope="module")
def pairs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same phantoms without and with an effusion (its pixels alone put in), and its masks."""
    before, after, masks = [], [], []
    for index in range(6):
        well, ill = (draw_phantom(7, index, SIZE, side) for side in (None, "left"))
        assert well.image is not None and ill.image is not None and "effusion" in ill.masks
        mask = ill.masks["effusion"] > 0
        before.append(well.image)
        after.append(np.where(mask, ill.image, well.image))
        masks.append(mask)
    return np.stack(before)[..., None], np.stack(after)[..., None], np.stack(masks)


class Brightness:
    """A classifier that sees an effusion where the lower half is bright."""

    classes = ("Effusion", "No Finding")

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        p = pixels[:, SIZE // 2 :].mean((1, 2, 3)) / 255
        return np.stack([p, 1 - p], axis=1)

    def features(self, pixels: np.ndarray) -> np.ndarray:
        return pixels.astype(float).mean(-1).reshape(len(pixels), -1)


def test_ssim_outside_is_1_where_only_the_inside_changed(pairs):
    before, after, masks = pairs
    np.testing.assert_allclose(ssim_outside(before, after, masks), 1.0, atol=1e-6)
    assert (ssim_outside(before, after, np.zeros_like(masks)) < 0.97).all()


def test_ssim_without_a_region_is_the_ssim_of_all(pairs):
    before, after, masks = pairs
    x, y = (torch.from_numpy(p).permute(0, 3, 1, 2).float() / 255 for p in (before, after))
    _, full = structural_similarity_index_measure(
        x, y, data_range=1.0, reduction="none", return_full_image=True
    )
    assert full.shape == x.shape
    np.testing.assert_allclose(
        ssim_outside(before, after, np.zeros_like(masks)), full.mean((1, 2, 3)), atol=1e-5
    )


def test_ssim_outside_sees_a_change_outside_and_no_change_near_the_region(pairs):
    before, _, _ = pairs
    region = np.zeros(before.shape[:3], bool)
    region[:, 20:30, 20:30] = True
    near, far = before.copy(), before.copy()
    near[:, 20:30, 20:30] = 255
    far[:, 45:50, 45:50] = 255
    np.testing.assert_allclose(ssim_outside(before, near, region), 1.0, atol=1e-6)
    assert (ssim_outside(before, far, region) < 0.99).all()
    assert np.isnan(ssim_outside(before, far, np.ones_like(region))).all()
    assert REACH == 5


def test_where_an_image_changed_most_is_where_it_was_changed(pairs):
    before, after, masks = pairs
    found = changed_most(before, after)
    assert found.mean() == pytest.approx(CHANGED, abs=0.02)
    assert all((found[i] & masks[i]).sum() / masks[i].sum() > 0.9 for i in range(len(masks)))


def test_the_figures_of_pairs(pairs):
    before, after, masks = pairs
    region = Region(masks.any(0), "a mask")
    found, where = measure({"before": before, "after": after}, region, Brightness(), "Effusion")  # type: ignore[arg-type]
    assert found["ssim_outside"] == pytest.approx(1.0, abs=1e-6) and where.shape == masks.shape
    gains = Brightness().probabilities(after)[:, 0] - Brightness().probabilities(before)[:, 0]
    assert (
        found["response"]["gain"] == pytest.approx(gains.mean()) and found["response"]["gain_interval"][0] > 0
    )
    assert found["response"]["before"]["probability"] < found["response"]["after"]["probability"]
    unknown, _ = measure(
        {"before": before, "after": after}, CHANGED_MOST, Missing("no labels"), Missing("no classifier")
    )
    assert unknown["response"]["after"] is None and unknown["response"]["after_reason"] == "no labels"
    assert "changed most" in unknown["region"]["source"]


def test_the_region_comes_from_the_masks_of_the_caption(tmp_path: Path):
    samples = [
        draw_phantom(1, index, SIZE, ("left", "right", None)[index % 3], "large") for index in range(24)
    ]
    writer = ShardWriter(open_storage(tmp_path / "train"), 1 << 20, "image", "train")
    for sample in samples:
        writer.write(sample)
    writer.finish()
    open_storage(tmp_path).write_json("index.json", {"format": "medsd-shards/1", "splits": ["train"]})
    caption = next(s.caption for s in samples if s.labels["side"] == "left")
    region = masked_region(str(tmp_path), caption, (SIZE, SIZE))
    assert region is not None and region.mask is not None
    assert (
        region.mask[:, SIZE // 2 :].sum() > 100 and region.mask[:, : SIZE // 3].sum() == 0
    )  # the viewer's right alone
    alone = [s.masks["effusion"] for s in samples if s.caption == caption and s.masks]
    assert f"{len(alone)} training images" in region.source
    np.testing.assert_array_equal(region.mask, np.mean([m > 0 for m in alone], axis=0) >= 0.1)
    assert masked_region(str(tmp_path), "another caption", (SIZE, SIZE)) is None
    half = masked_region(str(tmp_path), caption, (SIZE // 2, SIZE // 2))
    assert half is not None and half.mask is not None and half.mask.shape == (SIZE // 2, SIZE // 2)


def test_masks_of_several_names_are_no_one_region(tmp_path: Path):
    mask = np.full((SIZE, SIZE), 2, np.uint8)
    writer = ShardWriter(open_storage(tmp_path / "train"), 1 << 20, "image", "train")
    for number, names in enumerate((["tumour"], ["lungs", "tumour"])):
        masks = dict.fromkeys(names, mask)
        writer.write(Sample(f"{number}", mask, f"caption {number}", "patient", masks=masks))
    writer.finish()
    open_storage(tmp_path).write_json("index.json", {"splits": ["train"]})
    region = masked_region(str(tmp_path), "caption 0", (SIZE, SIZE))
    assert region is not None and region.mask is not None and region.mask.all()  # a class is as good as 255
    with pytest.raises(InputError, match=r"'caption 1' have masks of lungs, tumour; give --mask"):
        masked_region(str(tmp_path), "caption 1", (SIZE, SIZE))


def test_psnr_outside_is_that_of_the_pixels_outside_by_hand():
    before = np.full((3, 4, 4, 1), 100, np.uint8)
    after, region = before.copy(), np.zeros((3, 4, 4), bool)
    region[:, :2] = True
    after[:, :2] = 255  # inside: of no account
    after[0, 2:] = 110  # an error of 10 everywhere outside
    after[1, 2, 0] = 120  # of 20 at one pixel of eight
    region[2] = True
    found = psnr_outside(before, after, region)
    wanted = 10 * np.log10(255**2 / np.array([100.0, 400 / 8]))
    np.testing.assert_allclose(found[:2], wanted)
    assert np.isnan(found[2]) and np.isinf(psnr_outside(before, before, region)[0])


def test_identity_is_kept_where_the_inside_alone_changed(pairs):
    before, after, masks = pairs
    (classifier,) = (Brightness(),)
    found, _ = measure({"before": before, "after": after}, Region(masks[0], "one"), classifier, "Effusion")  # type: ignore[arg-type]
    assert found["psnr_outside"] > 15 and 0 < found["perceptual_outside"] < 0.1  # masks of others
    np.testing.assert_allclose(perceptual(before, before, classifier), 0, atol=1e-9)  # type: ignore[arg-type]
    without, _ = measure(
        {"before": before, "after": after}, Region(masks[0], "one"), Missing("none"), "Effusion"
    )  # type: ignore[arg-type]
    assert without["perceptual_outside"] is None and without["perceptual_outside_reason"] == "none"
    near = nearness({"before": before, "after": after, "second": after}, classifier)  # type: ignore[arg-type]
    assert near["nearer"] == 1.0 and near["after"]["ssim"] == pytest.approx(1.0, abs=1e-6)
    assert near["before"]["ssim"] < 0.97 and near["after"]["psnr"] is None  # equal: no finite PSNR
    assert near["before"]["perceptual"] > near["after"]["perceptual"] == pytest.approx(0, abs=1e-9)


def test_pairs_are_a_patients_first_visit_and_the_next():
    rows = [
        ("b", "2", "ill"), ("b", "1", "well"),
        ("a", "10", "ill"), ("a", "9", "well"), ("a", "9", "ill"),  # numbers in their order; the first image
        ("c", "1", "ill"), ("c", "2", "well"),  # ill at first
        ("d", "1", "well"), ("d", "2", "well"),  # stays well
        ("e", "1", "well"), ("f", None, "ill"),
        ("g", "1", "well"), ("g", "2", "hurt"),
    ]  # fmt: skip
    patients, visits, labels = zip(*rows, strict=True)
    assert visit_pairs(patients, visits, labels, "well", None) == [(3, 2), (1, 0), (11, 12)]
    assert visit_pairs(patients, visits, labels, "well", "ill") == [(3, 2), (1, 0)]
