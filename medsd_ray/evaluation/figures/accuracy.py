"""How often a classifier is right: on held-out real images, and on generated ones by what their prompts ask
for.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.classification import binary_auroc, multiclass_auroc

from medsd_ray.evaluation.estimates import (
    Estimate,
    Missing,
    Withheld,
    put,
    resampled,
    resampled_share,
    too_few,
    unless_few,
    wilson,
)
from medsd_ray.evaluation.figures.prompt_labels import prompt_labels
from medsd_ray.evaluation.figures.sets import NO_BASE, NO_TRAIN, Sets
from medsd_ray.evaluation.inputs import ImageSet
from medsd_ray.evaluation.networks.classifier import Classifier

BOOTSTRAPS = 1000


@dataclass(frozen=True)
class HeldOutScore:
    count: int
    patients: int
    accuracy: Estimate | Withheld
    auroc: Estimate | Withheld | None  # None where the held-out images show one class only
    by_class: dict[str, tuple[int, int]]  # right answers, images


def score_held_out(classifier: Classifier, images: ImageSet, seed: int) -> HeldOutScore:
    """Accuracy and AUROC (binary; macro one-vs-rest for more classes) with 95% bootstrap intervals over
    patients.

    Patients are drawn with replacement, all images of each together. Where all images are right, or none,
    accuracy has Wilson's interval over patients, and a perfect AUROC has none. Raises ValueError without a
    labelled image.
    """
    judged, probabilities, truth = judge(classifier, images)
    right = probabilities.argmax(1) == truth
    members = defaultdict(list)
    for index, patient in enumerate(judged.groups):
        members[patient].append(index)
    rng = np.random.default_rng([seed, 29])
    accuracies, areas, blocks = [], [], list(members.values())
    for _ in range(BOOTSTRAPS):
        drawn = np.concatenate([blocks[i] for i in rng.integers(0, len(blocks), len(blocks))]).astype(int)
        accuracies.append(right[drawn].mean())
        area = auroc(probabilities[drawn], truth[drawn])
        if area is not None:
            areas.append(area)
    area = auroc(probabilities, truth)
    return HeldOutScore(
        count=len(judged),
        patients=judged.patients,
        accuracy=resampled_share(float(right.mean()), accuracies, judged.patients, "patients"),
        auroc=resampled(area, areas, "patients") if area is not None and areas else None,
        by_class={
            c: (int(right[truth == i].sum()), int((truth == i).sum()))
            for i, c in enumerate(classifier.classes)
        },
    )


def judge(classifier: Classifier, images: ImageSet) -> tuple[ImageSet, np.ndarray, np.ndarray]:
    """The images that have one of the classifier's labels, its probabilities for them (N, classes) float64,
    and the true classes' numbers (N,). Raises ValueError where there are none.
    """
    labelled = [i for i, label in enumerate(images.labels) if label in classifier.classes]
    if not labelled:
        raise ValueError("no held-out image has one of the classifier's labels")
    judged = images.take(labelled)
    truth = np.array([classifier.classes.index(label) for label in judged.labels if label is not None])
    return judged, classifier.probabilities(judged.pixels), truth


def auroc(probabilities: np.ndarray, truth: np.ndarray) -> float | None:
    """Area under the ROC curve; probabilities (N, C), truth (N,) ints. None where not every class occurs."""
    classes = probabilities.shape[1]
    if len(np.unique(truth)) < classes:
        return None
    p, t = torch.from_numpy(probabilities), torch.from_numpy(truth)
    if classes == 2:
        return float(binary_auroc(p[:, 1], t, validate_args=False))
    return float(multiclass_auroc(p, t, num_classes=classes, average="macro", validate_args=False))


@dataclass(frozen=True)
class PromptScore:
    """Of generated images whose prompt asks for a known label: how many the classifier gives that label."""

    right: int
    count: int
    unknown: int  # images whose prompt is no caption of the training images
    by_class: dict[str, tuple[int, int]]


def score_prompts(classifier: Classifier, images: ImageSet, wanted: dict[str, str]) -> PromptScore:
    """Raises ValueError where no image's prompt is a caption of the real training images."""
    known = [i for i, prompt in enumerate(images.captions) if prompt in wanted]
    if not known:
        raise ValueError(
            "no prompt of these images equals a caption of the real training images, so none names a label"
        )
    some = images.take(known)
    given = [classifier.classes[i] for i in classifier.probabilities(some.pixels).argmax(1)]
    by_class = {c: (0, 0) for c in classifier.classes}
    for prompt, label in zip(some.captions, given, strict=True):
        right, count = by_class[wanted[prompt]]
        by_class[wanted[prompt]] = right + (label == wanted[prompt]), count + 1
    return PromptScore(
        sum(r for r, _ in by_class.values()),
        len(some),
        len(images) - len(some),
        {c: v for c, v in by_class.items() if v[1]},
    )


def classifier_section(trained: Classifier | Missing, sets: Sets, label: str, seed: int) -> dict:
    """The classifier itself, how often it is right on held-out real images, and how often generated and base
    images show it what their prompts ask for.
    """
    section: dict[str, Any] = {"label": label}
    if isinstance(trained, Missing) or sets.train is None:
        why = Missing(f"no classifier: {trained if isinstance(trained, Missing) else NO_TRAIN}")
        for name in ("real_heldout_accuracy", "real_heldout_auroc", "generated_accuracy", "base_accuracy"):
            put(section, name, why)
        return section
    section |= {
        "network": trained.name,
        "input_size": trained.size,
        "classes": trained.classes,
        "epochs": trained.epochs,
        "best_epoch": trained.best_epoch,
        "seconds": round(trained.seconds, 1),
    }
    section |= _held_out_figures(trained, sets.held_out, seed)
    wanted = prompt_labels(sets.train.captions, sets.train.labels, trained.classes)
    for name, images in (("generated", sets.generated), ("base", sets.base)):
        section |= _prompt_figures(name, trained, images, wanted)
    return section


def _held_out_figures(classifier: Classifier, held_out: ImageSet, seed: int) -> dict[str, Any]:
    section: dict[str, Any] = {}
    try:
        score = score_held_out(classifier, held_out, seed)
    except ValueError as error:
        put(section, "real_heldout_accuracy", Missing(str(error)))
        put(section, "real_heldout_auroc", Missing(str(error)))
        return section
    few = too_few(score.count, score.patients)
    put(section, "real_heldout_accuracy", unless_few(score.accuracy, few))
    area = score.auroc or Missing("the held-out images show one class only")
    put(section, "real_heldout_auroc", few or area)
    return section | {
        "real_heldout_count": score.count,
        "real_heldout_patients": score.patients,
        "real_heldout_by_class": _lists(score.by_class),
    }


def _prompt_figures(
    name: str, classifier: Classifier, images: ImageSet | None, wanted: dict[str, str]
) -> dict[str, Any]:
    section: dict[str, Any] = {}
    if images is None:
        put(section, f"{name}_accuracy", NO_BASE)
        return section
    try:
        score = score_prompts(classifier, images, wanted)
    except ValueError as error:
        put(section, f"{name}_accuracy", Missing(str(error)))
        return section
    put(section, f"{name}_accuracy", wilson(score.right, score.count))
    return section | {
        f"{name}_count": score.count,
        f"{name}_unknown": score.unknown,
        f"{name}_by_class": _lists(score.by_class),
    }


def _lists(by_class: dict[str, tuple[int, int]]) -> dict[str, list[int]]:
    """[right, all] of each label, as JSON has it."""
    return {name: list(both) for name, both in by_class.items()}


def insertion_section(classifier: dict) -> dict:
    """The same answers as the paper's headline: does an image show what its prompt says, before and after
    adaptation?
    """
    section: dict[str, Any] = {}
    for name, source in (
        ("accuracy", "generated"),
        ("base_accuracy", "base"),
        ("detector_accuracy", "real_heldout"),
    ):
        for suffix in ("", "_interval", "_interval_method", "_reason", "_interval_reason"):
            if f"{source}_accuracy{suffix}" in classifier:
                section[f"{name}{suffix}"] = classifier[f"{source}_accuracy{suffix}"]
    return section
