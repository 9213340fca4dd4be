import re

import numpy as np
import pytest

from medsd_ray.data.sources.phantom import SIDES, base_samples, draw_base, draw_phantom, phantom_samples

SIZE = 64


def test_a_phantom_is_a_function_of_its_arguments():
    one, again, other = (
        draw_phantom(0, 3, SIZE, "left"),
        draw_phantom(0, 3, SIZE, "left"),
        draw_phantom(0, 4, SIZE, "left"),
    )
    assert one.image is not None and again.image is not None and other.image is not None
    assert np.array_equal(one.image, again.image)
    assert not np.array_equal(one.image, other.image)
    assert one.image.shape == (SIZE, SIZE) and one.image.dtype == np.uint8


@pytest.mark.parametrize("side", SIDES)
def test_an_effusion_changes_only_its_mask_and_brightens_it(side):
    for index in range(8):
        with_fluid, without = draw_phantom(0, index, SIZE, side), draw_phantom(0, index, SIZE, None)
        assert with_fluid.image is not None and without.image is not None and "effusion" in with_fluid.masks
        difference = with_fluid.image.astype(int) - without.image
        inside = with_fluid.masks["effusion"] > 0
        assert inside.sum() > 0.01 * SIZE * SIZE
        assert difference[inside].mean() > 20
        # The mask's edge is soft: two thirds of all change lies inside, and the upper third of the image has
        # none.
        assert np.abs(difference)[inside].sum() > 0.66 * np.abs(difference).sum()
        assert not difference[: SIZE // 3].any()


def test_the_patients_left_is_on_the_viewers_right():
    for index in range(8):
        left, right = (draw_phantom(0, index, SIZE, side).masks["effusion"] for side in ("left", "right"))
        assert left is not None and right is not None
        assert np.nonzero(left)[1].mean() > SIZE / 2 > np.nonzero(right)[1].mean()


def test_reports_match_labels_and_half_have_the_finding():
    samples = list(phantom_samples(400, 16, seed=5))
    for sample in samples:
        effusion = sample.labels["finding"] == "Effusion"
        assert effusion == ("No pleural effusion" not in sample.caption) == ("effusion" in sample.masks)
        assert (sample.labels["heart"] == "enlarged") == ("heart is enlarged" in sample.caption)
        if effusion:
            assert re.search(
                rf"{sample.labels['extent']} {sample.labels['side']} pleural effusion", sample.caption
            )
    share = np.mean([s.labels["finding"] == "Effusion" for s in samples])
    assert 0.42 < share < 0.58
    assert len({s.caption for s in samples}) == 14
    assert len({s.key for s in samples}) == 400


def test_the_base_models_drawings_know_no_effusion():
    samples = list(base_samples(300, 16))
    assert not any("effusion" in s.caption or s.masks for s in samples)
    assert len({s.labels["style"] for s in samples}) == 9
    again = draw_base(0, 7, 16).image
    assert again is not None and samples[7].image is not None and np.array_equal(again, samples[7].image)
