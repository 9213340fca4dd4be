"""Figures of classifiers and segmenters against scikit-learn's, torchmetrics' and MONAI's, and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from torchmetrics.functional.classification import multiclass_calibration_error

from medsd_ray.data.shards import Sample
from medsd_ray.evaluation.estimates import Estimate, Missing, Withheld
from medsd_ray.evaluation.figures import classification, segmentation
from medsd_ray.evaluation.figures.calibration import BINS, binned, calibration_error, reliability
from medsd_ray.evaluation.figures.classification import Decisions, curve_areas, roc_curve
from medsd_ray.evaluation.figures.groups import (
    UNKNOWN,
    Judged,
    domain_rows,
    gap,
    members,
    subgroup_of,
    subgroup_sections,
)
from medsd_ray.evaluation.figures.patient_draws import PatientDraws, weighted_mean
from medsd_ray.evaluation.figures.segmentation import Overlaps
from medsd_ray.evaluation.task_metrics import task_metrics

N, CLASSES = 200, 3


def decisions(seed: int = 0, count: int = N) -> Decisions:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES, count)
    logits = rng.normal(size=(count, CLASSES)).round(1) + 1.2 * np.eye(CLASSES)[truth]
    shares = np.exp(logits)
    return Decisions(shares / shares.sum(1, keepdims=True), truth)


@pytest.fixture(params=["ones", "drawn"])
def weights(request: pytest.FixtureRequest) -> np.ndarray:
    return np.ones(N) if request.param == "ones" else np.random.default_rng(1).integers(0, 4, N).astype(float)


def test_a_classifiers_figures_are_scikit_learns(weights: np.ndarray):
    found = decisions()
    values = {name: float(v[0]) for name, v in found.overall(weights[None]).items()}
    given: dict[str, Any] = {"sample_weight": weights}
    one_hot = np.eye(CLASSES)[found.truth]
    expected = {
        "accuracy": metrics.accuracy_score(found.truth, found.predicted, **given),
        "balanced_accuracy": metrics.balanced_accuracy_score(found.truth, found.predicted, **given),
        "auroc": metrics.roc_auc_score(
            one_hot, found.probabilities, average="macro", multi_class="ovr", **given
        ),
        "average_precision": metrics.average_precision_score(one_hot, found.probabilities, **given),
        "f1": metrics.f1_score(found.truth, found.predicted, average="macro", **given),
        "brier": sum(
            metrics.brier_score_loss(one_hot[:, k], found.probabilities[:, k], **given)
            for k in range(CLASSES)
        ),
    }
    assert values.keys() == expected.keys() | {"ece"} == classification.OVERALL.keys()
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, abs=1e-9), name


def test_a_class_has_the_figures_of_it_against_the_others():
    found = decisions()
    (sensitivity, specificity) = (
        found.of_class(1, np.ones((1, N)))[n][0] for n in ("sensitivity", "specificity")
    )
    is_class, said = found.truth == 1, found.predicted == 1
    assert sensitivity == metrics.recall_score(is_class, said)
    assert specificity == metrics.recall_score(~is_class, ~said)


def test_the_calibration_error_is_torchmetrics():
    found = decisions()
    expected = multiclass_calibration_error(
        torch.from_numpy(found.probabilities), torch.from_numpy(found.truth), CLASSES, n_bins=BINS
    )
    assert found.overall(np.ones((1, N)))["ece"][0] == pytest.approx(float(expected), abs=1e-6)


def test_bins_by_hand():
    bins = binned(np.array([0.95, 0.95, 0.5, 1.0]), np.array([True, False, True, True]))
    assert bins.shape == (4, BINS, 3)
    totals = bins.sum(0)
    assert totals[14].tolist() == [3, pytest.approx(2.9), 2] and totals[7].tolist() == [1, 0.5, 1]
    assert calibration_error(np.ones((1, 4)), bins)[0] == pytest.approx((0.9 + 0.5) / 4)
    rows = reliability(bins)
    assert rows[0]["accuracy"] is None and rows[14]["accuracy"] == pytest.approx(2 / 3)


def test_equal_scores_are_one_threshold():
    scores, truth = np.array([0.5, 0.5, 0.5, 0.9]), np.array([True, False, False, True])
    area, precision = curve_areas(scores, truth, np.ones((1, 4)))
    assert area[0] == metrics.roc_auc_score(truth, scores)
    assert precision[0] == metrics.average_precision_score(truth, scores)
    assert [list(one) for one in roc_curve(scores, truth)] == [[0, 0, 1], [0, 0.5, 1]]


def test_without_a_class_its_figures_are_none():
    found = decisions().take(np.flatnonzero(decisions().truth != 2))
    values = found.overall(np.ones((1, len(found.truth))))
    assert np.isnan(values["auroc"][0]) and np.isnan(values["balanced_accuracy"][0])
    assert 0 < values["accuracy"][0] < 1


def test_a_confusion_matrix_has_the_truth_in_its_rows():
    found = decisions()
    assert (found.confusion() == metrics.confusion_matrix(found.truth, found.predicted)).all()


def square(top: int, left: int, side: int, value: int = 1, size: int = 16) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[top : top + side, left : left + side] = value
    return mask


def sure(mask: np.ndarray, outputs: int, share: float = 0.9) -> np.ndarray:
    """(outputs, H, W) probabilities of a label map."""
    rest = (1 - share) / (outputs - 1)
    return np.where(np.arange(outputs)[:, None, None] == mask, share, rest).astype(np.float32)


def overlaps(pairs: list[tuple[np.ndarray, np.ndarray]], outputs: int = 2) -> Overlaps:
    """Of (drawn, true) label maps."""
    return Overlaps.of(
        np.stack([sure(drawn, outputs) for drawn, _ in pairs]), np.stack([t for _, t in pairs])
    )


def test_overlaps_by_hand():
    nothing = np.zeros((16, 16), np.uint8)
    found = overlaps(
        [
            (square(4, 6, 4), square(4, 4, 4)),  # half of it, two pixels aside
            (nothing, square(4, 4, 4)),
            (square(0, 0, 2), nothing),
            (nothing, nothing),
        ]
    )
    assert found.dice[:2, 0].tolist() == [0.5, 0] and np.isnan(found.dice[2:]).all()
    assert found.iou[:2, 0].tolist() == [pytest.approx(1 / 3), 0]
    assert found.hd95[0, 0] == 2 and np.isnan(found.hd95[1:]).all()
    assert found.counts(0) == {"images": 2, "missed": 1, "empty": 1, "false_alarms": 1}
    values = found.overall(np.ones((1, 4)))
    assert values["dice"][0] == 0.25 and values["hd95"][0] == 2
    wrong = 16 + 16 + 4  # pixels of 4 * 256
    assert values["ece"][0] == pytest.approx(abs(0.9 - (1024 - wrong) / 1024), abs=1e-6)


def test_classes_of_a_segmenter_count_alike():
    true, drawn = square(0, 0, 4) + square(8, 8, 4, value=2), square(0, 0, 4) + square(8, 10, 4, value=2)
    found = overlaps([(drawn, true)], outputs=3)
    assert found.dice.tolist() == [[1.0, 0.5]]
    assert found.overall(np.ones((1, 1)))["dice"][0] == 0.75


def test_a_weighted_mean_leaves_out_what_is_none():
    weights = np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 1.0], [0.0, 1.0, 0.0]])
    means = weighted_mean(weights, np.array([1.0, np.nan, 3.0]))
    assert means[:2].tolist() == [2.0, 3.0] and np.isnan(means[2])


def judged(found: Decisions, patients: list[str], seed: int = 0) -> Judged:
    draws = PatientDraws(patients, seed)
    return Judged(lambda of: found.take(of).overall, classification.OVERALL, draws, "accuracy")


def test_draws_are_of_patients_with_all_of_their_images():
    draws = PatientDraws([f"p{i // 4}" for i in range(40)], 0)
    rows = draws.counts[:, draws.numbers]
    assert (rows.sum(1) == 40).all() and (rows.reshape(-1, 10, 4) == rows.reshape(-1, 10, 4)[..., :1]).all()
    assert (PatientDraws([f"p{i // 4}" for i in range(40)], 0).counts == draws.counts).all()
    assert (PatientDraws([f"p{i // 4}" for i in range(40)], 1).counts != draws.counts).any()


def test_images_of_one_patient_widen_the_interval():
    """Four copies of each image say no more than one."""
    few, many = decisions(count=60), decisions(count=60).take(np.repeat(np.arange(60), 4))
    widths = []
    for found, patients in ((few, range(60)), (many, np.repeat(np.arange(60), 4)), (many, range(240))):
        row = judged(found, [f"p{one}" for one in patients]).row(np.arange(len(found.truth)))
        low, high = row["accuracy_interval"]
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0], rel=0.15) and widths[2] < 0.7 * widths[1]


def test_few_images_have_no_interval_and_no_area():
    found = decisions(count=20)
    estimates = judged(found, [str(i) for i in range(20)]).draws.estimates(
        found.overall, np.arange(20), classification.OVERALL
    )
    assert isinstance(estimates["auroc"], Missing) and isinstance(estimates["accuracy"], Withheld)
    assert (
        estimates["accuracy"].why
        == estimates["auroc"]
        == "too few: 20 images of 20 patients, where 30 of 10 patients are needed"
    )


def test_all_right_has_wilsons_interval_of_the_patients():
    truth = np.arange(60) % 2
    found = Decisions(np.eye(2)[truth] * 0.8 + 0.1, truth)
    estimate = judged(found, [str(i // 2) for i in range(60)]).draws.estimates(
        found.overall, np.arange(60), classification.OVERALL
    )["accuracy"]
    assert isinstance(estimate, Estimate)
    assert (estimate.value, estimate.method) == (1.0, "Wilson's of 30 patients")


def sample(domain: str | None = None, **labels: Any) -> Sample:
    return Sample("k", None, "", "p", labels, {}, domain)


def test_domains_and_unknown_ones_have_rows_of_their_own():
    found = decisions(count=90)
    samples = [sample(["b", "a", None][i % 3]) for i in range(90)]
    rows = domain_rows(judged(found, [str(i) for i in range(90)]), samples)
    assert [(row["domain"], row["images"]) for row in rows] == [("a", 30), ("b", 30), (UNKNOWN, 30)]
    assert rows[1]["accuracy"] == found.take(np.arange(0, 90, 3)).right.mean()
    assert all(row["accuracy_interval"] for row in rows)


@pytest.mark.parametrize(
    ("labels", "field", "value"),
    [
        ({"sex": "F"}, "sex", "F"),
        ({"PatientSex": "M"}, "sex", "M"),
        ({"age": "47"}, "age", "40 to 49"),
        ({"Age": 50.0}, "age", "50 to 59"),
        ({"age": "90"}, "age", "90 and older"),
        ({"age": "about 50"}, "age", UNKNOWN),
        ({"age": "nan"}, "age", UNKNOWN),
        ({}, "sex", UNKNOWN),
    ],
)
def test_subgroups_are_read_from_labels(labels: dict, field: str, value: str):
    assert subgroup_of(sample(**labels), field) == value


def test_the_gap_is_between_the_best_and_the_worst_group():
    truth = np.zeros(120, int)
    right = np.where(np.arange(120) < 60, np.arange(120) % 10 != 0, np.arange(120) % 2 == 0)
    shares = np.where(right[:, None], [0.8, 0.2], [0.2, 0.8])
    found = judged(Decisions(shares, truth), [str(i) for i in range(120)])
    samples = [sample(sex="F" if i < 60 else "M") for i in range(120)]
    (section,) = subgroup_sections(found, samples)
    assert (section["field"], section["best"], section["worst"]) == ("sex", "F", "M")
    assert section["gap"] == pytest.approx(0.9 - 0.5)
    low, high = section["gap_interval"]
    assert 0.2 < low < 0.4 < high < 0.6
    alone = gap(found, members(["F"] * 110 + ["M"] * 10))
    assert alone["gap"] is None and "fewer than two groups" in alone["gap_reason"]


def test_metrics_are_flat():
    report = {
        "figures": {"accuracy": 0.8, "auroc": None, "auroc_reason": "few", "ece": 0.1, "images": 9},
        "by_domain": [{"domain": "a", "accuracy": 0.9}, {"domain": "b", "accuracy": 0.5}],
        "validation_loss": 0.3,
    }
    assert task_metrics(report) == {
        "accuracy": 0.8, "ece": 0.1, "validation_loss": 0.3, "worst_domain_accuracy": 0.5,
    }  # fmt: skip
    assert segmentation.OVERALL.keys() == {"dice", "iou", "hd95", "ece"}
