"""How right a segmenter is: overlap and distance of masks by MONAI, and calibration over all pixels.

Of each image and class: Dice, IoU and the 95th percentile of the Hausdorff distance, in pixels. An image
without the class says nothing of overlap (MONAI's nan): it is left out of the class's mean and counted, and
so is what the network drew there all the same. Where the class is there and the network drew nothing of it,
Dice and IoU are 0, and the distance is not defined: it is left out and counted.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou
from torch.nn.functional import one_hot

from medsd_ray.evaluation.figures.calibration import binned, calibration_error
from medsd_ray.evaluation.figures.patient_draws import Form, Values, weighted_mean

NO_PIXEL = "no image has a pixel of this class"
OVERALL = {
    "dice": Form(undefined="no image has a pixel of some class"),
    "iou": Form(undefined="no image has a pixel of some class"),
    "hd95": Form(undefined="some class is found in no image that has it"),
    "ece": Form(),
}
"""Of all images: the first three are means over the classes, without the background."""
BY_CLASS = {
    "dice": Form(undefined=NO_PIXEL),
    "iou": Form(undefined=NO_PIXEL),
    "hd95": Form(undefined="the class is found in no image that has it"),
}


@dataclass(frozen=True)
class Overlaps:
    """Of N images and C classes.

    Attributes:
        dice: (N, C), nan where the image has no pixel of the class.
        iou: The same.
        hd95: (N, C) pixels, nan where the image, or what was drawn, has no pixel of the class.
        true: (N, C) pixels of the class in the image's mask.
        drawn: (N, C) pixels that the network gave the class.
        bins: (N, BINS, 3), the decisions on all of its pixels; see calibration.py.
    """

    dice: np.ndarray
    iou: np.ndarray
    hd95: np.ndarray
    true: np.ndarray
    drawn: np.ndarray
    bins: np.ndarray

    @classmethod
    def of(cls, probabilities: np.ndarray, truth: np.ndarray) -> Overlaps:
        """From probabilities (N, 1 + C, H, W) and truth (N, H, W) uint8."""
        outputs = probabilities.shape[1]
        predicted = probabilities.argmax(1)
        drawn, true = (
            one_hot(torch.from_numpy(mask.astype(np.int64)), outputs).movedim(-1, 1).float()
            for mask in (predicted, truth)
        )
        with warnings.catch_warnings():  # of empty masks, which are counted, and of MONAI's own calls
            warnings.simplefilter("ignore")
            distances = compute_hausdorff_distance(drawn, true, percentile=95).numpy()
        confidence, right = probabilities.max(1), predicted == truth
        return cls(
            compute_dice(drawn, true, include_background=False).numpy().astype(np.float64),
            compute_iou(drawn, true, include_background=False).numpy().astype(np.float64),
            np.where(np.isfinite(distances), distances, np.nan).astype(np.float64),
            true[:, 1:].sum((2, 3)).numpy(),
            drawn[:, 1:].sum((2, 3)).numpy(),
            binned(confidence, right),
        )

    @classmethod
    def joined(cls, parts: list[Overlaps]) -> Overlaps:
        """One after the other."""
        names = ("dice", "iou", "hd95", "true", "drawn", "bins")
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def take(self, of: np.ndarray) -> Overlaps:
        """Those of the images `of` (indices)."""
        names = ("dice", "iou", "hd95", "true", "drawn", "bins")
        return Overlaps(**{name: getattr(self, name)[of] for name in names})

    def overall(self, weights: np.ndarray) -> Values:
        """The figures of OVERALL, (B,) each, by weights (B, N)."""
        each = [self.of_class(number, weights) for number in range(self.dice.shape[1])]
        macro = {name: np.mean([one[name] for one in each], axis=0) for name in BY_CLASS}
        return macro | {"ece": calibration_error(weights, self.bins)}

    def of_class(self, number: int, weights: np.ndarray) -> Values:
        """The figures of BY_CLASS of one class, (B,) each, by weights (B, N)."""
        return {name: weighted_mean(weights, getattr(self, name)[:, number]) for name in BY_CLASS}

    def counts(self, number: int) -> dict[str, int]:
        """Of one class: the images that have it, those of them where nothing of it was drawn, and those that
        do not have it, without and with something drawn.
        """
        there, drawn = self.true[:, number] > 0, self.drawn[:, number] > 0
        return {
            "images": int(there.sum()),
            "missed": int((there & ~drawn).sum()),
            "empty": int((~there & ~drawn).sum()),
            "false_alarms": int((~there & drawn).sum()),
        }
