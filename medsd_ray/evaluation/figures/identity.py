"""Whether an edited image is still of the same patient: PSNR and a perceptual distance outside of what was to
change, and how near it comes to the patient's real image of another visit.

The perceptual distance is the cosine distance of the detector's features (its pooled activations), as LPIPS's
weights may not be there: 0 for equal images, and it grows with what the detector sees. SSIM outside of the
region is in insertion.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from medsd_ray.evaluation.estimates import Missing, mean_t, put, wilson
from medsd_ray.evaluation.networks.classifier import Classifier


def psnr_outside(before: np.ndarray, after: np.ndarray, region: np.ndarray) -> np.ndarray:
    """PSNR in dB of each pair (N,) over the pixels outside of `region` (N, H, W): 10·log10(255² / MSE); NaN
    where there are none, infinite where they are equal. The images are (N, H, W, C) uint8.
    """
    error = ((after.astype(float) - before.astype(float)) ** 2).mean(-1)
    outside = np.logical_not(region)
    counts = outside.sum((1, 2))
    with np.errstate(divide="ignore"):
        values = 10 * np.log10(255**2 / ((error * outside).sum((1, 2)) / np.maximum(counts, 1)))
    return np.where(counts > 0, values, np.nan)


def perceptual(first: np.ndarray, second: np.ndarray, classifier: Classifier) -> np.ndarray:
    """The cosine distance of the detector's features of each pair (N,), 0 to 2."""
    x, y = classifier.features(first), classifier.features(second)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return 1 - (x * y).sum(1) / np.maximum(norms, 1e-12)


def identity_outside(
    images: dict[str, np.ndarray], region: np.ndarray, classifier: Classifier | Missing
) -> dict[str, Any]:
    """`psnr_outside` and `perceptual_outside` of `before` and `after`, with intervals, and where there is a
    `reconstruction`, of that. For the latter what is inside is that of `before`.
    """
    found: dict[str, Any] = {}
    for name, other in (("", "after"), ("_of_reconstruction", "reconstruction")):
        if other not in images:
            continue
        before, after = np.broadcast_arrays(images["before"], images[other])
        put(found, f"psnr_outside{name}", _mean(psnr_outside(before, after, region)))
        kept = np.where(region[..., None], before, after)
        distance = classifier if isinstance(classifier, Missing) else perceptual(before, kept, classifier)
        put(
            found,
            f"perceptual_outside{name}",
            distance if isinstance(distance, Missing) else _mean(distance),
        )
    return found


def nearness(images: dict[str, np.ndarray], classifier: Classifier | Missing) -> dict[str, Any]:
    """How near `after`, and for comparison `before`, is to the real `second`: `ssim`, `psnr` and the
    perceptual distance, all of the whole image; and `nearer`, the share of patients whose edited image is
    nearer than their first, by the perceptual distance.
    """
    found: dict[str, Any] = {}
    distances: dict[str, np.ndarray] = {}
    for name in ("before", "after"):
        one, second = np.broadcast_arrays(images[name], images["second"])
        nowhere = np.zeros(one.shape[:3], bool)
        found[name] = {}
        put(found[name], "ssim", _mean(_ssim(one, second)))
        put(found[name], "psnr", _mean(psnr_outside(one, second, nowhere)))
        if isinstance(classifier, Missing):
            put(found[name], "perceptual", classifier)
            continue
        distances[name] = perceptual(one, second, classifier)
        put(found[name], "perceptual", _mean(distances[name]))
    if isinstance(classifier, Missing):
        put(found, "nearer", classifier)
    else:
        nearer = distances["after"] < distances["before"]
        put(found, "nearer", wilson(int(nearer.sum()), len(nearer)))
    return found


def _ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    x, y = (torch.from_numpy(p.astype(np.float32)).permute(0, 3, 1, 2) / 255 for p in (first, second))
    return structural_similarity_index_measure(x, y, data_range=1.0, reduction="none").double().numpy()  # type: ignore[union-attr]


def _mean(values: np.ndarray):
    known = values[np.isfinite(values)]
    return mean_t(known) if len(known) > 1 else Missing("fewer than two images have a figure")
