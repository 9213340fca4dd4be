"""Did the model copy its training images? Each generated image's nearest training neighbour, judged against
real ones'.

A small distance alone says little: a bland image is near to many. So the measure is a ratio: the distance to
the nearest training image over the mean distance to the next nearest ones (after Carlini et al. 2023, arXiv
2301.13188, sec. 4.2). An image like no training image in particular has a ratio near 1, a copy one near 0.
Held-out real images of other patients show which ratios occur without any copying.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from medsd_ray.evaluation.estimates import Missing, put
from medsd_ray.evaluation.figures.distances import pairwise_distances
from medsd_ray.evaluation.figures.sets import NO_TRAIN, Sets
from medsd_ray.evaluation.inputs import ImageSet
from medsd_ray.evaluation.networks.extractors import Extractor

NEIGHBOURS = 50
PIXELS = 64
DEVIATIONS = 6.0
MIN_TRAIN, MIN_HELD_OUT = 10, 10


@dataclass(frozen=True)
class Neighbours:
    """For each image: its nearest training image's index, the distance to it, and the ratio (see the
    module).
    """

    index: np.ndarray
    distance: np.ndarray
    ratio: np.ndarray


@dataclass(frozen=True)
class SpaceCheck:
    """The check in one feature space: a generated image is flagged where its ratio is below `threshold`."""

    space: str
    threshold: float
    held_out: Neighbours
    generated: Neighbours

    @property
    def flagged(self) -> np.ndarray:
        """Indices of flagged images, the nearest copy first."""
        found = np.flatnonzero(self.generated.ratio < self.threshold)
        return found[np.argsort(self.generated.ratio[found])]


def neighbours(images: np.ndarray, train: np.ndarray, count: int = NEIGHBOURS) -> Neighbours:
    """Nearest of `train` (M, D) for each of `images` (N, D), Euclidean. Raises ValueError for fewer than 10
    in `train`.
    """
    if len(train) < MIN_TRAIN:
        raise ValueError(f"needs at least {MIN_TRAIN} training images, there are {len(train)}")
    distances = np.concatenate(
        [pairwise_distances(images[i : i + 64], train) for i in range(0, len(images), 64)]
    )
    order = np.sort(distances, axis=1)
    others = order[:, 1 : count + 1].mean(1)
    nearest = order[:, 0]
    return Neighbours(distances.argmin(1), nearest, nearest / np.maximum(others, 1e-12))


def threshold(held_out_ratios: np.ndarray) -> float:
    """The ratio below which an image counts as a copy: rarer than any real image that was not trained on.

    The lesser of the smallest held-out ratio and the point 6 standard deviations below the mean of the
    ratios' logarithms: the first bounds false alarms where the distribution has a tail (at most 1 in n + 1
    expected), the second where there are few images. Raises ValueError below 10 held-out images.
    """
    if len(held_out_ratios) < MIN_HELD_OUT:
        raise ValueError(
            f"needs at least {MIN_HELD_OUT} held-out images to calibrate, there are {len(held_out_ratios)}"
        )
    logs = np.log(np.maximum(held_out_ratios, 1e-6))
    return float(min(held_out_ratios.min(), np.exp(logs.mean() - DEVIATIONS * logs.std(ddof=1))))


def check(space: str, generated: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> SpaceCheck:
    """The check in one space; all (N, D) features of the generated, real training and real held-out
    images.
    """
    reference = neighbours(held_out, train)
    return SpaceCheck(space, threshold(reference.ratio), reference, neighbours(generated, train))


def pixel_features(pixels: np.ndarray) -> np.ndarray:
    """(N, H, W, C) uint8 -> (N, D) float64: brightness at no more than 64 px, so that fine noise and cost do
    not matter.

    Scaled so that the distance of two images is the root mean square of their difference, in [0, 1].
    """
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    if max(x.shape[-2:]) > PIXELS:
        x = functional.interpolate(x, size=(PIXELS, PIXELS), mode="bilinear", antialias=True)
    flat = x.flatten(1).double().numpy()
    return flat / np.sqrt(flat.shape[1])


def memorisation_section(
    loaded: dict[str, Extractor | Missing], sets: Sets
) -> tuple[dict, dict[str, SpaceCheck]]:
    """Near-copies of training images, by brightness and in one extractor's features, and the checks behind
    them. `passed` is null where it is unknown.
    """
    section: dict[str, Any] = {"flagged": [], "spaces": {}}
    if sets.train is None:
        put(section, "passed", NO_TRAIN)
        return section, {}
    spaces: dict[str, Callable[[np.ndarray], np.ndarray]] = {"pixels": pixel_features}
    # The classifier sees a shifted copy as the same image; other extractors serve where there is none.
    extractors = [loaded[name] for name in ("classifier", "xrv", "inception")]
    spaces |= {e.name: e for e in extractors if isinstance(e, Extractor)}
    checks: dict[str, SpaceCheck] = {}
    for name, extract in list(spaces.items())[:2]:
        features = [extract(images.pixels) for images in (sets.generated, sets.train, sets.held_out)]
        try:
            checks[name] = check(name, *features)
        except ValueError as error:
            put(section, "passed", Missing(str(error)))
            return section, {}
    for name, space in checks.items():
        section["spaces"][name] = _ratios(space)
        section["flagged"] += _flagged(space, sets.generated, sets.train)
    section["passed"] = not section["flagged"]
    return section, checks


def _ratios(space: SpaceCheck) -> dict[str, Any]:
    return {
        "threshold": space.threshold,
        "held_out_smallest": float(space.held_out.ratio.min()),
        "held_out_median": float(np.median(space.held_out.ratio)),
        "generated_smallest": float(space.generated.ratio.min()),
        "generated_median": float(np.median(space.generated.ratio)),
        "flagged": len(space.flagged),
    }


def _flagged(space: SpaceCheck, generated: ImageSet, train: ImageSet) -> list[dict[str, Any]]:
    """Each flagged image with the training image that it is nearest to."""
    return [
        {
            "file": generated.keys[i],
            "neighbour": train.keys[space.generated.index[i]],
            "space": space.space,
            "distance": float(space.generated.distance[i]),
            "ratio": float(space.generated.ratio[i]),
        }
        for i in space.flagged
    ]
