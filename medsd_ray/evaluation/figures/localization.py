"""How well a map of attention finds what a mask outlines, image by image.

Of the map of one image, brought to the image's size, and its mask, as Dombrowski et al. 2024 (AAAI 2024,
arXiv 2303.17908, by the code that they published) judge it: the area under the ROC curve of its pixels; the
pointing game (whether the highest pixel lies in the mask); the contrast-to-noise ratio, CNR = (m_in - m_out)
/ √(v_in + v_out), of means and variances in and out of the mask; IoU, and the mean of it and the
background's, of the map cut halfway between the means of a mixture of two Gaussians, its holes filled; and
the distance in pixels between the centre of what is cut and the mask's.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture

from medsd_ray.evaluation.figures.patient_draws import Form, Values, weighted_mean

FIGURES = {
    "auroc": Form(),
    "pointing": Form(share=True),
    "cnr": Form(undefined="no image's map varies"),
    "iou": Form(),
    "miou": Form(),
    "distance": Form(undefined="no image's map varies"),
    "auroc_of_perfect": Form(),
}
"""Of all images or those of a finding: means over images. The last is of the mask itself at the map's size:
no map of that size can have more.
"""


@dataclass(frozen=True)
class Localizations:
    """Of N images, (N,) float64 each; `distance` and `cnr` are nan where the map does not vary."""

    auroc: np.ndarray
    pointing: np.ndarray
    cnr: np.ndarray
    iou: np.ndarray
    miou: np.ndarray
    distance: np.ndarray
    auroc_of_perfect: np.ndarray

    @classmethod
    def of(cls, maps: np.ndarray, masks: np.ndarray) -> Localizations:
        """From maps (N, h, w) float32 and masks (N, H, W) bool, each with a pixel in it and one out of it."""
        rows = [_judged(one, mask) for one, mask in zip(maps, masks, strict=True)]
        return cls(*(np.array(values, dtype=np.float64) for values in zip(*rows, strict=True)))

    @classmethod
    def joined(cls, parts: list[Localizations]) -> Localizations:
        """One after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def take(self, of: np.ndarray) -> Localizations:
        """Those of the images `of` (indices)."""
        return Localizations(*(getattr(self, field.name)[of] for field in fields(self)))

    def overall(self, weights: np.ndarray) -> Values:
        """The figures of FIGURES, (B,) each, by weights (B, N)."""
        return {name: weighted_mean(weights, getattr(self, name)) for name in FIGURES}


def enlarged(small: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (h, w) float32 at an image's size (H, W), bilinear."""
    height, width = size
    return np.asarray(
        Image.fromarray(small.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    )


def blurred(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) bool as a map of `size` (h, w) shows it at best: the share that it has of each place."""
    height, width = size
    return np.asarray(Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX))


def thresholded(values: np.ndarray) -> np.ndarray | None:
    """A map (H, W) cut halfway between the means of two Gaussians, its holes filled; None where it does not
    vary.
    """
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-12:
        return None
    scaled = ((values - low) / (high - low)).reshape(-1, 1)
    with warnings.catch_warnings():  # of a mixture that has not settled in its hundred steps
        warnings.simplefilter("ignore")
        mixture: Any = GaussianMixture(2, random_state=0).fit(scaled)
    return ndimage.binary_fill_holes((scaled > mixture.means_.mean()).reshape(values.shape))


def _judged(small: np.ndarray, mask: np.ndarray) -> tuple[float, ...]:
    values = enlarged(small, mask.shape)
    inside, outside = values[mask], values[~mask]
    spread = float(np.sqrt(inside.var() + outside.var()))
    ceiling = enlarged(blurred(mask, small.shape), mask.shape)
    cut = thresholded(values)
    iou = miou = 0.0
    distance = np.nan
    if cut is not None:
        iou = float((cut & mask).sum() / (cut | mask).sum())
        around = (~cut | ~mask).sum()
        miou = (iou + float((~cut & ~mask).sum() / around)) / 2
        centres = [np.array(ndimage.center_of_mass(one)) for one in (cut, mask)]
        distance = float(np.linalg.norm(centres[0] - centres[1]))
    return (
        float(roc_auc_score(mask.ravel(), values.ravel())),
        float(mask.ravel()[values.argmax()]),
        float((inside.mean() - outside.mean()) / spread) if spread > 0 else np.nan,
        iou,
        miou,
        distance,
        float(roc_auc_score(mask.ravel(), ceiling.ravel())),
    )
