"""Does the abnormality come out where it is asked for, and does the rest stay? Figures over pairs of images,
before and after.

The response of a classifier that learned from real images says whether the finding is there; SSIM (Wang et
al. 2004, doi 10.1109/TIP.2003.819861) outside of the finding's region says how much else has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_dilation, gaussian_filter
from torchmetrics.functional.image import structural_similarity_index_measure

from medsd_ray.data.shards import INDEX, iter_samples, list_splits
from medsd_ray.errors import InputError
from medsd_ray.evaluation.estimates import Missing, mean_t, put, wilson
from medsd_ray.evaluation.figures.identity import identity_outside, nearness
from medsd_ray.evaluation.inputs import resized
from medsd_ray.evaluation.networks.classifier import Classifier
from medsd_ray.storage import open_storage

REACH = 5  # pixels that SSIM's 11 px window sees beyond its centre


CHANGED = 0.2  # share of the image that counts as the region where none is known


SEEN = 0.1  # share of the masks that must cover a pixel to make it part of their region


@dataclass(frozen=True)
class Region:
    """Where the finding may be: (H, W) bool for all images, or None: where each image changed most. `source`
    in words.
    """

    mask: np.ndarray | None
    source: str

    def of(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """(N, H, W) bool for these images (N, H, W, C)."""
        if self.mask is not None:
            return np.broadcast_to(self.mask, before.shape[:3])
        return changed_most(before, after)


CHANGED_MOST = Region(
    None,
    f"no mask is known: the {CHANGED:.0%} of each image that changed most, so SSIM outside is the best "
    "that any region gives",
)


def masked_region(real: str, prompt: str, size: tuple[int, int]) -> Region | None:
    """Where training images with this caption have the finding, by the masks in the shards; None where there
    are none. Raises InputError where they have masks of several names.
    """
    store = open_storage(real)
    if not store.exists(INDEX) or "train" not in list_splits(real):
        return None
    found = [s.masks for s in iter_samples(real, "train") if s.masks and s.caption == prompt]
    if len(names := sorted({name for masks in found for name in masks})) > 1:
        raise InputError(
            f"{real}: images with the caption {prompt!r} have masks of {', '.join(names)}; give --mask, "
            "an image that is white where the finding may be"
        )
    masks = [mask for of_sample in found for mask in of_sample.values()]
    if not masks:
        return None
    inside = [(mask > 0).astype(np.uint8) * 255 for mask in masks]
    share = np.mean([resized(mask, size)[..., 0] > 127 for mask in inside], axis=0)
    return Region(share >= SEEN, f"the masks of the {len(masks)} training images with this caption, together")


def changed_most(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(N, H, W) bool: the pixels whose brightness changed most, after a blur that makes them hang
    together.
    """
    change = np.abs(after.astype(float).mean(-1) - before.astype(float).mean(-1))
    smooth = gaussian_filter(change, (0, change.shape[1] / 32, change.shape[2] / 32))
    return smooth > np.quantile(smooth, 1 - CHANGED, axis=(1, 2), keepdims=True)


def ssim_outside(before: np.ndarray, after: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Mean SSIM of each pair (N,) over the pixels whose window does not touch `region` (N, H, W); NaN where
    there is none.

    The images are (N, H, W, C) uint8, C 1 or 3.
    """
    x, y = (
        torch.from_numpy(p.astype(np.float32)).permute(0, 3, 1, 2).expand(-1, 3, -1, -1) / 255
        for p in (before, after)
    )
    _, full = structural_similarity_index_measure(
        x, y, data_range=1.0, reduction="none", return_full_image=True
    )
    window = np.ones((1, 2 * REACH + 1, 2 * REACH + 1), bool)
    outside = np.logical_not(binary_dilation(region, window))
    values = full.mean(1).double().numpy()
    counts = outside.sum((1, 2))
    return np.where(counts > 0, (values * outside).sum((1, 2)) / np.maximum(counts, 1), np.nan)


def measure(
    images: dict[str, np.ndarray], region: Region, classifier: Classifier | Missing, target: str | Missing
) -> tuple[dict[str, Any], np.ndarray]:
    """The figures, and the region of each image. `images`: `before`, `after`, for an edit
    `reconstruction` and for pairs of visits the real `second`, (N, H, W, C).
    """
    where = region.of(images["before"], images["after"])
    found: dict[str, Any] = {
        "pairs": len(where),
        "region": {"source": region.source, "share_of_image": float(where.mean())},
    }
    found["response"] = _response(images, classifier, target)
    for name, first, second in (
        ("ssim_outside", "before", "after"),
        ("ssim_outside_of_reconstruction", "before", "reconstruction"),
        ("ssim_outside_against_reconstruction", "reconstruction", "after"),
    ):
        if first in images and second in images:
            put(found, name, _mean(ssim_outside(images[first], images[second], where)))
    found |= identity_outside(images, where, classifier)
    if "second" in images:
        found["second_visit"] = nearness(images, classifier)
    return found, where


def _mean(values: np.ndarray):
    known = values[np.isfinite(values)]
    return (
        mean_t(known)
        if len(known) > 1
        else Missing("fewer than two images have anything outside of the region")
    )


def _response(
    images: dict[str, np.ndarray], classifier: Classifier | Missing, target: str | Missing
) -> dict[str, Any]:
    """For each set of images: the share that the classifier says shows `target`, its mean probability, and
    what was gained.
    """
    section: dict[str, Any] = {"target": None if isinstance(target, Missing) else str(target)}
    why = next((one for one in (classifier, target) if isinstance(one, Missing)), None)
    if why is not None or isinstance(classifier, Missing):
        for name in (*images, "gain"):
            put(section, name, why or Missing("no classifier"))
        return section
    index = classifier.classes.index(str(target))
    probabilities = {name: classifier.probabilities(pixels) for name, pixels in images.items()}
    for name, p in probabilities.items():
        section[name] = {}
        put(section[name], "shown", wilson(int((p.argmax(1) == index).sum()), len(p)))
        section[name]["probability"] = float(p[:, index].mean())
    gained = probabilities["after"][:, index] - probabilities["before"][:, index]
    put(
        section,
        "gain",
        mean_t(gained) if len(gained) > 1 else Missing("an interval needs two images or more"),
    )
    return section
