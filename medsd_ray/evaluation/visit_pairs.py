"""Patients who were seen twice: an image of the first visit, which a model changes, and the real one of the
second, which it is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medsd_ray.errors import InputError
from medsd_ray.evaluation.inputs import ImageSet, read_real

VISIT = "visit"
"""The label that tells a patient's visits apart, in their order: numbers, then words by the alphabet."""


@dataclass(frozen=True)
class VisitPairs:
    """Pairs of images (N, H, W, C) uint8, and the second's captions and labels."""

    first: np.ndarray
    second: np.ndarray
    captions: list[str]
    labels: list[str]


def read_visit_pairs(
    splits: dict[str, ImageSet],
    real: str,
    size: tuple[int, int],
    *,
    normal: str,
    target: str | None,
    count: int,
) -> VisitPairs:
    """The first `count` patients, by name, of the held-out split who were `normal` and at their next visit
    had `target`, or anything else where it is None. `splits` are the images of `real` with the labels that
    `normal` is one of.

    Raises InputError where there are fewer.
    """
    name = next(one for one in ("test", "validation", *splits) if one in splits)
    images, visits = splits[name], read_real(real, VISIT, size)[name].labels
    found = visit_pairs(images.groups, visits, images.labels, normal, target)
    if len(found) < count:
        second = f"labelled {target!r}" if target else "that is not"
        raise InputError(
            f"{real}: only {len(found)} patients of the {name} split have a first {VISIT} labelled "
            f"{normal!r} and a second {second}; lower --num-images, or give shards whose label {VISIT!r} "
            "tells visits apart"
        )
    first, second = (list(indices) for indices in zip(*found[:count], strict=True))
    return VisitPairs(
        images.pixels[first],
        images.pixels[second],
        [images.captions[i] for i in second],
        [str(images.labels[i]) for i in second],
    )


def visit_pairs(
    patients: Sequence[str],
    visits: Sequence[str | None],
    labels: Sequence[str | None],
    normal: str,
    target: str | None,
) -> list[tuple[int, int]]:
    """The indices of each patient's first image of the first visit and of the next, by patient, where the
    first is `normal` and the second `target` (where that is None: of any other label).
    """
    firsts: dict[str, dict[str, int]] = {}
    for index, (patient, visit) in enumerate(zip(patients, visits, strict=True)):
        if visit is not None:
            firsts.setdefault(patient, {}).setdefault(visit, index)
    pairs = []
    for patient in sorted(firsts):
        order = sorted(firsts[patient], key=lambda visit: (not visit.isdecimal(), visit.zfill(9)))
        if len(order) < 2:
            continue
        before, after = (firsts[patient][visit] for visit in order[:2])
        later = labels[after]
        if labels[before] == normal and later not in (None, normal) and target in (None, later):
            pairs.append((before, after))
    return pairs
