"""How often a classifier is right: on held-out real images, and on generated ones by what their prompts ask
for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torchmetrics.functional.classification import binary_auroc, multiclass_auroc

from medsd_ray.evaluation.estimates import Estimate
from medsd_ray.evaluation.inputs import ImageSet
from medsd_ray.evaluation.networks.classifier import Classifier

BOOTSTRAPS = 1000


@dataclass(frozen=True)
class HeldOutScore:
    count: int
    patients: int
    accuracy: Estimate
    auroc: Estimate | None  # None where the held-out images show one class only
    by_class: dict[str, tuple[int, int]]  # right answers, images


def score_held_out(classifier: Classifier, images: ImageSet, seed: int) -> HeldOutScore:
    """Accuracy and AUROC (binary; macro one-vs-rest for more classes) with 95% bootstrap intervals over
    patients.

    Patients are drawn with replacement, all images of each together. Raises ValueError without a labelled
    image.
    """
    known = [i for i, label in enumerate(images.labels) if label in classifier.classes]
    if not known:
        raise ValueError("no held-out image has one of the classifier's labels")
    some = images.take(known)
    truth = np.array([classifier.classes.index(label) for label in some.labels if label is not None])
    probabilities = classifier.probabilities(some.pixels)
    right = probabilities.argmax(1) == truth
    members = defaultdict(list)
    for index, patient in enumerate(some.groups):
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
        count=len(some),
        patients=some.patients,
        accuracy=_interval(float(right.mean()), accuracies),
        auroc=_interval(area, areas) if area is not None and areas else None,
        by_class={
            c: (int(right[truth == i].sum()), int((truth == i).sum()))
            for i, c in enumerate(classifier.classes)
        },
    )


def auroc(probabilities: np.ndarray, truth: np.ndarray) -> float | None:
    """Area under the ROC curve; probabilities (N, C), truth (N,) ints. None where not every class occurs."""
    classes = probabilities.shape[1]
    if len(np.unique(truth)) < classes:
        return None
    p, t = torch.from_numpy(probabilities), torch.from_numpy(truth)
    if classes == 2:
        return float(binary_auroc(p[:, 1], t, validate_args=False))
    return float(multiclass_auroc(p, t, num_classes=classes, average="macro", validate_args=False))


def _interval(value: float, draws: list[float]) -> Estimate:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def prompt_labels(captions: list[str], labels: list[str | None], classes: list[str]) -> dict[str, str]:
    """What a prompt asks for: the commonest label among real training images with exactly that caption."""
    votes: dict[str, Counter] = defaultdict(Counter)
    for caption, label in zip(captions, labels, strict=True):
        if caption and label in classes:
            votes[caption][label] += 1
    return {
        caption: min(counts, key=lambda label: (-counts[label], label)) for caption, counts in votes.items()
    }


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
