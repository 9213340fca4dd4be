from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest
from torchvision.models import DenseNet

from medsd_ray.evaluation.estimates import Estimate, Missing, Withheld
from medsd_ray.evaluation.figures import accuracy
from medsd_ray.evaluation.figures.sets import Sets
from medsd_ray.evaluation.inputs import ImageSet
from medsd_ray.evaluation.networks import classifier
from medsd_ray.evaluation.report.format import interval_words, percent


def spots(count: int, seed: int, images_per_patient: int = 1) -> ImageSet:
    """A bright spot on the left or on the right, in noise: only its side tells the label."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(90, 25, (count, 32, 32, 1))
    labels = ["left" if i % 3 else "right" for i in range(count)]  # two to one
    for image, label in zip(pixels, labels, strict=True):
        row, column = rng.integers(8, 20), rng.integers(4, 8) + (0 if label == "left" else 16)
        image[row : row + 6, column : column + 6] += 110
    groups = [f"{seed}-{i // images_per_patient}" for i in range(count)]
    captions = [f"a spot on the {label}" for label in labels]
    return ImageSet(
        np.clip(pixels, 0, 255).astype(np.uint8),
        [f"{seed}-{i}" for i in range(count)],
        captions,
        groups,
        list(labels),
    )


@pytest.fixture(scope="module")
def trained() -> classifier.Classifier:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "PASSES", 1000)
        return classifier.train_classifier(spots(120, 1), spots(40, 2), seed=0, say=lambda _: None)


def test_it_learns_left_from_right(trained: classifier.Classifier):
    score = accuracy.score_held_out(trained, spots(60, 3, images_per_patient=2), seed=0)
    assert score.accuracy.value > 0.95
    assert score.auroc is not None
    assert score.auroc.value > 0.98
    assert (score.count, score.patients) == (60, 30)
    assert score.by_class["right"][1] == 20


class Bright(classifier.Classifier):
    """Knows an image's label: "bright" of white ones, "dark" of black ones."""

    def __init__(self) -> None:
        super().__init__(
            DenseNet(num_classes=2), "brightness", ["bright", "dark"], 1, 0.0, 1.0, 1, 1, None, 0.0
        )

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        bright = pixels.mean((1, 2, 3)) / 255
        return np.stack([bright, 1 - bright], axis=1)


def black_and_white(labels: tuple[str, str], shades: tuple[int, int] = (255, 0)) -> ImageSet:
    """80 images of 40 patients: of each patient two, with these labels and shades."""
    pixels = np.tile(np.array(shades, np.uint8), 40).reshape(80, 1, 1, 1)
    keys = [str(i) for i in range(80)]
    return ImageSet(pixels, keys, keys, [str(i // 2) for i in range(80)], list(labels) * 40)


def test_what_is_the_same_in_every_draw_is_not_shown_as_exact():
    all_right = accuracy.score_held_out(Bright(), black_and_white(("bright", "dark")), seed=0)
    bound = binomtest(40, 40).proportion_ci(method="wilson")  # patients, as the images of one hang together
    assert all_right.accuracy == Estimate(1.0, bound.low, bound.high, "Wilson's of 40 patients")
    why = Missing("the same in 95% or more of the draws of patients, which bounds nothing")
    assert all_right.auroc == Withheld(1.0, why)
    none = accuracy.score_held_out(Bright(), black_and_white(("dark", "bright")), seed=0)
    assert isinstance(none.accuracy, Estimate) and none.accuracy.method == "Wilson's of 40 patients"
    assert [none.accuracy.value, *none.accuracy.interval] == pytest.approx([0.0, 0.0, 1 - bound.low])
    half = accuracy.score_held_out(Bright(), black_and_white(("bright", "dark"), (255, 255)), seed=0)
    assert half.accuracy == Withheld(0.5, why)  # one of each patient's two


def test_a_method_and_a_reason_reach_the_report():
    images = black_and_white(("bright", "dark"))
    section = accuracy.classifier_section(
        Bright(), Sets(images, None, images, images, None, ""), "finding", 0
    )
    assert section["real_heldout_accuracy_interval_method"] == "Wilson's of 40 patients"
    assert (
        accuracy.insertion_section(section)["detector_accuracy_interval_method"] == "Wilson's of 40 patients"
    )
    assert interval_words(section, "real_heldout_accuracy", percent) == (
        "91.2% to 100.0%, Wilson's of 40 patients"
    )
    assert section["real_heldout_auroc"] == 1.0 and section["real_heldout_auroc_interval"] is None
    assert interval_words(section, "real_heldout_auroc").startswith("no interval, the same in 95% or more")


@pytest.mark.parametrize(
    ("images", "patients", "withheld"), [(30, 10, False), (29, 29, True), (30, 30, False), (36, 9, True)]
)
def test_few_held_out_images_or_patients_give_no_auroc_and_no_interval(
    trained: classifier.Classifier, images: int, patients: int, withheld: bool
):
    held_out = spots(images, 3, images_per_patient=images // patients)
    assert held_out.patients == patients
    sets = Sets(spots(120, 1), None, held_out, spots(40, 4), None, "")
    section = accuracy.classifier_section(trained, sets, "finding", 0)
    insertion = accuracy.insertion_section(section)
    assert section["real_heldout_accuracy"] == insertion["detector_accuracy"] > 0.9
    assert (section["real_heldout_accuracy_interval"] is None) is withheld
    assert (section["real_heldout_auroc"] is None) is withheld
    few = f"too few: {images} images of {patients} patients, where 30 of 10 patients are needed"
    for said in (
        section.get("real_heldout_accuracy_interval_reason"),
        section.get("real_heldout_auroc_reason"),
        insertion.get("detector_accuracy_interval_reason"),
    ):
        assert said == (few if withheld else None)
    assert section["generated_accuracy_interval"]  # Wilson's says itself how few they are


def test_the_same_seed_trains_the_same_network(
    trained: classifier.Classifier, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(classifier, "PASSES", 40)
    first, second, other = (
        classifier.train_classifier(spots(40, 1), spots(20, 2), seed, say=lambda _: None).features(
            spots(4, 9).pixels
        )
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(first, other)


def test_features_and_probabilities_have_their_shapes(trained: classifier.Classifier):
    images = spots(5, 4)
    assert trained.features(images.pixels).shape == (5, trained.dimensions)
    np.testing.assert_allclose(trained.probabilities(images.pixels).sum(1), 1)


def test_prompts_are_scored_by_the_label_of_the_same_caption(trained: classifier.Classifier):
    train, images = spots(120, 1), spots(30, 5)
    wanted = accuracy.prompt_labels(train.captions, train.labels, trained.classes)
    assert wanted == {"a spot on the left": "left", "a spot on the right": "right"}
    liars = replace(images, captions=["a spot on the left"] * 20 + ["a cat"] * 10, labels=[None] * 30)
    score = accuracy.score_prompts(trained, liars, wanted)
    assert (score.count, score.unknown) == (20, 10)
    assert score.right == pytest.approx(13, abs=1)  # two thirds of the spots are on the left
    with pytest.raises(ValueError, match="no prompt"):
        accuracy.score_prompts(trained, images, {})


def test_a_caption_of_two_labels_means_the_commoner():
    assert accuracy.prompt_labels(["x", "x", "x", ""], ["a", "b", "b", "a"], ["a", "b"]) == {"x": "b"}


@pytest.mark.parametrize("labels", [[None] * 20, ["one"] * 20, ["one"] * 17 + ["two"] * 3])
def test_too_few_labels_say_so(labels: list[str | None]):
    lone = replace(spots(20, 1), labels=labels)
    with pytest.raises(ValueError, match="a classifier needs two"):
        classifier.train_classifier(lone, None, 0, say=lambda _: None)


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    truth, scores = rng.integers(0, 2, 40), rng.random(40)
    pairs = [scores[i] > scores[j] for i in np.flatnonzero(truth == 1) for j in np.flatnonzero(truth == 0)]
    got = accuracy.auroc(np.stack([1 - scores, scores], 1), truth)
    assert got == pytest.approx(np.mean(pairs), abs=1e-6)
    assert accuracy.auroc(np.full((3, 2), 0.5), np.zeros(3, int)) is None


def test_many_images_of_few_patients_widen_the_interval(trained: classifier.Classifier):
    """20 images of 5 patients who are each all right or all wrong say as much as 5 images, not as 20."""
    images, swapped = spots(60, 6), {"left": "right", "right": "left"}
    labels = [label if (i // 12) % 2 else swapped[str(label)] for i, label in enumerate(images.labels)]
    wide, narrow = (
        accuracy.score_held_out(trained, replace(images, groups=groups, labels=list(labels)), seed=0).accuracy
        for groups in ([str(i // 12) for i in range(60)], images.keys)
    )
    assert wide.value == narrow.value
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
