from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medsd_ray.evaluation.figures import memorisation
from medsd_ray.evaluation.figures.memorisation import pixel_features


def chests(count: int, seed: int, size: int = 32) -> np.ndarray:
    """Images with one layout and smooth differences, as radiographs have: (count, size, size, 1) uint8."""
    rng = np.random.default_rng(seed)
    layout = gaussian_filter(np.random.default_rng(99).standard_normal((size, size)), size / 8) * 300
    own = (
        np.stack([gaussian_filter(rng.standard_normal((size, size)), size / 12) for _ in range(count)]) * 150
    )
    return np.clip(128 + layout + own + rng.normal(0, 3, own.shape), 0, 255).astype(np.uint8)[..., None]


TRAIN, HELD_OUT = pixel_features(chests(150, 1)), pixel_features(chests(60, 2))


def noised(images: np.ndarray, deviation: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, deviation, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("change", ["none", "noise", "blur", "darker"])
def test_a_copy_of_a_training_image_is_found_among_new_ones(change: str):
    copies = chests(150, 1)[[17, 90]]
    if change == "noise":
        copies = noised(copies, 8)
    if change == "blur":
        copies = gaussian_filter(copies, (0, 1, 1, 0))
    if change == "darker":
        copies = (copies * 0.95).astype(np.uint8)
    images = np.concatenate([chests(30, 3), copies])
    check = memorisation.check("pixels", pixel_features(images), TRAIN, HELD_OUT)
    assert sorted(check.flagged.tolist()) == [30, 31]
    assert check.generated.index[[30, 31]].tolist() == [17, 90]


def test_real_images_of_other_patients_pass():
    """300 images that no one copied: no false alarm."""
    assert len(memorisation.check("pixels", pixel_features(chests(300, 10)), TRAIN, HELD_OUT).flagged) == 0


def test_bland_images_pass_though_they_are_near_to_everything():
    average = np.broadcast_to(chests(150, 1).mean(0), (20, 32, 32, 1)).astype(np.uint8)
    check = memorisation.check("pixels", pixel_features(noised(average, 2)), TRAIN, HELD_OUT)
    assert check.generated.distance.mean() < check.held_out.distance.mean()
    assert len(check.flagged) == 0


def test_held_out_images_themselves_are_never_flagged():
    assert len(memorisation.check("pixels", HELD_OUT, TRAIN, HELD_OUT).flagged) == 0


def test_neighbours_are_the_nearest():
    found = memorisation.neighbours(HELD_OUT[:5], TRAIN)
    distances = np.linalg.norm(HELD_OUT[:5, None] - TRAIN[None], axis=2)
    np.testing.assert_array_equal(found.index, distances.argmin(1))
    np.testing.assert_allclose(found.distance, distances.min(1), atol=1e-7)
    np.testing.assert_allclose(
        found.ratio, distances.min(1) / np.sort(distances, 1)[:, 1:51].mean(1), atol=1e-6
    )


def test_pixel_distance_is_the_root_mean_square_difference_and_large_images_shrink():
    black, white = np.zeros((1, 200, 200, 1), np.uint8), np.full((1, 200, 200, 1), 255, np.uint8)
    a, b = pixel_features(black), pixel_features(white)
    assert a.shape == (1, 64 * 64)
    assert np.linalg.norm(a - b) == pytest.approx(1)


def test_too_few_images_say_so():
    with pytest.raises(ValueError, match="training images"):
        memorisation.check("pixels", HELD_OUT, TRAIN[:9], HELD_OUT)
    with pytest.raises(ValueError, match="held-out images"):
        memorisation.check("pixels", HELD_OUT, TRAIN, HELD_OUT[:9])
