"""The real images that judge a task run: what each is, batch by batch, and which are left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from medsd_ray.data.shards import Index, Sample, iter_samples, list_splits, read_index
from medsd_ray.errors import InputError
from medsd_ray.models.networks.task_run import TaskRun
from medsd_ray.spec.tasks import Segmenter

JUDGES = ("test", "validation")
"""The splits that may judge, the better one first."""
BATCH = 32


@dataclass(frozen=True)
class JudgedBatch:
    """Images with what they truly are.

    Attributes:
        pixels: (N, H, W, C) uint8, C 1 or 3.
        truth: The class of each, (N,) int64; or of each of its pixels, (N, H, W) uint8, 0 the background.
        samples: Patient, domain and labels of each.
    """

    pixels: np.ndarray
    truth: np.ndarray
    samples: list[Sample]


@dataclass
class JudgedSplit:
    """A split of real shards, read as a task run needs it; `left_out` counts the images that cannot judge, by
    the reason, once they were read.
    """

    run: TaskRun
    url: str
    split: str
    index: Index
    left_out: Counter[str] = field(default_factory=Counter)

    def batches(self) -> Iterator[JudgedBatch]:
        """Raises InputError for a damaged shard, a mask of another kind, or where no image can judge."""
        taken: list[tuple[Sample, np.ndarray | int]] = []
        count = 0
        for sample in iter_samples(self.url, self.split):
            if (truth := self._truth(sample)) is not None:
                taken.append((sample, truth))
                count += 1
            if len(taken) == BATCH:
                yield _stacked(taken)
                taken = []
        if taken:
            yield _stacked(taken)
        if not count:
            why = "; ".join(f"{number} {reason}" for reason, number in self.left_out.items())
            raise InputError(f"{self.url}: no image of the {self.split} split can judge this run ({why})")

    def _truth(self, sample: Sample) -> np.ndarray | int | None:
        """None where the sample cannot judge, which is counted."""
        from medsd_ray.data.targets import NO_CLASS, LabelTarget, MaskTarget  # it imports torch

        settings = self.run.settings
        if sample.image is None:
            self.left_out["have no image"] += 1
            return None
        if not isinstance(settings, Segmenter):
            number = LabelTarget(settings.label, self.run.classes).number_of(sample.labels)
            if number == NO_CLASS:
                value = sample.labels.get(settings.label)
                self.left_out["have no such label" if value is None else f"are {value!r}"] += 1
                return None
            return number
        if settings.mask not in sample.masks:
            if settings.missing == "background":
                return np.zeros(sample.image.shape[:2], np.uint8)
            self.left_out[f"have no mask {settings.mask!r}"] += 1
            return None
        target = MaskTarget(settings.mask, len(self.run.classes), missing_is_background=False)
        try:
            return target.numbers_of(sample.masks[settings.mask])
        except ValueError as error:
            raise InputError(f"{self.url}: sample {sample.key}: {error}") from error


def _stacked(taken: list[tuple[Sample, np.ndarray | int]]) -> JudgedBatch:
    images = [np.atleast_3d(sample.image) for sample, _ in taken if sample.image is not None]
    channels = max(image.shape[2] for image in images)
    pixels = np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in images])
    return JudgedBatch(pixels, np.stack([truth for _, truth in taken]), [sample for sample, _ in taken])


def judging_split(real: str, split: str | None) -> str:
    """The split of real shards that judges: `split`, else `test`, else `validation`. Raises InputError where
    it is not there.
    """
    there = list_splits(real)
    wanted = [split] if split else [name for name in JUDGES if name in there]
    if not wanted or wanted[0] not in there:
        raise InputError(
            f"{real}: no {split or ' or '.join(JUDGES)} split here, only {', '.join(there)}; prepare with "
            "one, or choose another by --split"
        )
    return wanted[0]


def find_judges(run: TaskRun, real: str, split: str | None) -> JudgedSplit:
    """The split that judges: `split`, else `test`, else `validation`. Only its index is read.

    Raises:
        InputError: There is none, its images have another size, or none has the label or mask.
    """
    name = judging_split(real, split)
    index = read_index(real, name)
    if index.kind != "image":
        raise InputError(f"{real}: {index.kind} shards; give the image shards that prepare wrote")
    if (size := index.meta.get("size")) != run.size:
        raise InputError(
            f"{real}: images of {size} px, but the {run.task} was trained on {run.size} px; prepare with "
            f"--size {run.size}"
        )
    _check_subject(run, index, real)
    return JudgedSplit(run, real, name, index)


def _check_subject(run: TaskRun, index: Index, where: str) -> None:
    kind = "label" if run.task == "classifier" else "mask"
    counted: dict[str, object] = index.meta.get(f"{kind}s", {})
    optional = isinstance(run.settings, Segmenter) and run.settings.missing == "background"
    if run.subject not in counted and not optional:
        raise InputError(
            f"{where}: no {kind} {run.subject!r}, which the {run.task} learnt; there are "
            f"{', '.join(sorted(counted)) or 'none'}"
        )
