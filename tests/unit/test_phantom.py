import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from medsd_ray.data.prepare import prepare
from medsd_ray.data.shards import iter_samples, list_splits, read_index
from medsd_ray.data.sources.phantom import (
    SIDES,
    draw_phantom,
    phantom_sample,
    phantom_samples,
)
from medsd_ray.data.sources.phantom_base import base_samples, draw_base
from medsd_ray.data.sources.phantom_sites import SCANNERS, Site, site_of
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.errors import InputError

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


def seen_at(site: Site | None, count: int = 12) -> list[np.ndarray]:
    return [np.asarray(phantom_sample(3, index, SIZE, site).image).astype(int) for index in range(count)]


def test_a_phantom_has_one_anatomy_at_every_site():
    for index in range(12):
        plain, *others = [phantom_sample(3, index, SIZE, site) for site in (None, *SCANNERS)]
        first = others[0]
        assert first.image is not None and plain.image is not None
        np.testing.assert_array_equal(first.image, plain.image)  # A's scanner changes nothing
        if "effusion" in plain.masks:
            np.testing.assert_array_equal(first.masks["effusion"], plain.masks["effusion"])
        for other, site in zip(others, SCANNERS, strict=True):
            assert (other.key, other.caption, other.labels) == (plain.key, plain.caption, plain.labels)
            assert other.domain == site and list(other.masks) == ["effusion", "lungs", "heart"]
            for name, mask in other.masks.items():
                np.testing.assert_array_equal(mask, first.masks[name])
                assert set(np.unique(mask)) <= {0, 255}
                assert mask.any() or (name == "effusion" and "effusion" not in plain.masks)
            assert not (other.masks["lungs"] & other.masks["heart"]).any()


def test_sites_differ_from_mild_to_strong():
    reference = seen_at("A")
    away = [
        np.mean([np.abs(one - other).mean() for one, other in zip(seen_at(site), reference, strict=True)])
        for site in SCANNERS
    ]
    assert away[0] == 0 and all(near + 3 < far for near, far in pairwise(away)), away


def test_an_image_is_never_inverted():
    for site in SCANNERS:
        for image, reference in zip(seen_at(site), seen_at("A"), strict=True):
            middle = (slice(SIZE // 8, -SIZE // 8),) * 2  # without black borders
            assert np.corrcoef(image[middle].ravel(), reference[middle].ravel())[0, 1] > 0.7


def test_markers_stand_on_their_side_of_the_patient():
    """On the patient's left, which is the viewer's right, the letter L is the brightest of the upper edge."""
    sides: dict[Site, int] = {"B": 1, "C": 0, "D": 1}
    for site, half in sides.items():
        for image in seen_at(site):
            edges = np.delete(image[: SIZE // 5], range(SIZE // 4, 3 * SIZE // 4), axis=1)  # no spine
            assert np.argmax([edges[:, : SIZE // 4].max(), edges[:, SIZE // 4 :].max()]) == half


def test_every_site_has_as_many_phantoms_whatever_their_number():
    sites: list[Site] = ["A", "B", "D"]
    drawn = [site_of(index, sites, 7) for index in range(300)]
    assert Counter(drawn) == {"A": 100, "B": 100, "D": 100}
    assert len({tuple(drawn[at : at + 3]) for at in range(0, 300, 3)}) == 6  # in every order
    assert drawn != [site_of(index, sites, 8) for index in range(300)]


def test_a_second_visit_is_the_same_patient_with_another_finding():
    for index in range(6):
        first, second = (phantom_sample(5, index, SIZE, visit=visit) for visit in (1, 2))
        plain = phantom_sample(5, index, SIZE)
        np.testing.assert_array_equal(first.image, plain.image)
        assert (first.key, second.key) == (f"{plain.key}-1", f"{plain.key}-2")
        assert first.patient == second.patient == plain.patient
        assert first.labels == plain.labels | {"visit": "1"} and second.labels["visit"] == "2"
        assert {first.labels["finding"], second.labels["finding"]} == {"Effusion", "No Finding"}
        assert first.labels["heart"] == second.labels["heart"]
        ill, well = (first, second) if first.masks else (second, first)
        assert list(ill.masks) == ["effusion"] and not well.masks
        assert first.image is not None and second.image is not None
        change = np.abs(first.image.astype(int) - second.image)
        inside = ill.masks["effusion"] > 0
        assert change[inside].mean() > 3 * change[~inside].mean() > 0  # of noise and exposure


def test_prepared_visits_of_a_patient_are_in_one_split(tmp_path: Path):
    url = str(tmp_path / "two")
    prepare(SourceRequest("20", "phantom", size=16, visits=2), url, splits="0.5,0.25,0.25")
    assert "--visits 2 --splits" in (tmp_path / "two" / "index.json").read_text()
    for split in list_splits(url):
        samples = list(iter_samples(url, split))
        assert set(Counter(sample.patient for sample in samples).values()) == {2}
        assert Counter(sample.labels["visit"] for sample in samples) == dict.fromkeys("12", len(samples) // 2)
    with pytest.raises(InputError, match="--visits 3: a phantom is seen once or twice"):
        prepare(SourceRequest("20", "phantom", size=16, visits=3), str(tmp_path / "no"))
    with pytest.raises(InputError, match="--visits is for --kind phantom"):
        prepare(SourceRequest(url, "folder", visits=2), str(tmp_path / "no"))


def test_prepared_sites_are_the_domains(tmp_path: Path):
    request = SourceRequest("40", "phantom", size=16, sites=("B", "A", "B"))
    prepare(request, str(tmp_path / "two"), splits="0.8,0.1,0.1")
    url = str(tmp_path / "two")
    samples = [sample for split in list_splits(url) for sample in iter_samples(url, split)]
    assert Counter(sample.domain for sample in samples) == {"A": 20, "B": 20}
    assert {shard.domain for shard in read_index(url).shards} == {"A", "B"}
    assert "--kind phantom" in (command := (tmp_path / "two/index.json").read_text())
    assert "--site A --site B" in command
    with pytest.raises(InputError, match="differ in sites"):
        prepare(SourceRequest("40", "phantom", size=16, sites=("A",)), url)
    with pytest.raises(InputError, match=r"--site 'E': choose A, B, C, D"):
        prepare(SourceRequest("40", "phantom", sites=("A", "E")), str(tmp_path / "no"))
    with pytest.raises(InputError, match="--site is for --kind phantom"):
        prepare(SourceRequest(url, "folder", sites=("A",)), str(tmp_path / "no"))
