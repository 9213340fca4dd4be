"""What a task run says of the images that judge it, batch by batch, and which it is most wrong about."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from medsd_ray.console import ProgressLine
from medsd_ray.data.shards import Sample
from medsd_ray.evaluation.figures.classification import Decisions
from medsd_ray.evaluation.figures.segmentation import Overlaps
from medsd_ray.evaluation.task_samples import JudgedBatch, JudgedSplit
from medsd_ray.models.networks.load import Predictor

WORST = 12
"""Pictures of failures."""


@dataclass(order=True)
class Failure:
    """An image that the network is wrong about: the higher `badness`, the worse; `said` is what the page says
    of it. `truth` and `drawn` are a segmenter's masks, (H, W).
    """

    badness: float
    number: int
    pixels: np.ndarray = field(compare=False)
    said: dict[str, Any] = field(compare=False)
    truth: np.ndarray | None = field(default=None, compare=False)
    drawn: np.ndarray | None = field(default=None, compare=False)


@dataclass
class Judgement:
    """All that figures and pictures are made of. `samples` are without their images."""

    samples: list[Sample]
    found: Decisions | Overlaps
    failures: list[Failure]


def judge(predictor: Predictor, judges: JudgedSplit) -> Judgement:
    """Has the network see every image that judges. Raises InputError and RunError as its parts do."""
    samples: list[Sample] = []
    parts: list[Any] = []
    worst: list[Failure] = []
    look = _classified if predictor.run.task == "classifier" else _segmented
    with ProgressLine(judges.index.samples, "images") as progress:
        for batch in judges.batches():
            part, failures = look(predictor, batch, len(samples))
            for failure in failures:
                heapq.heappush(worst, failure)
                if len(worst) > WORST:
                    heapq.heappop(worst)
            parts.append(part)
            samples += [replace(sample, image=None, masks={}) for sample in batch.samples]
            progress.add(len(batch.samples))
    kind = Decisions if predictor.run.task == "classifier" else Overlaps
    return Judgement(samples, kind.joined(parts), sorted(worst, reverse=True))


def _classified(predictor: Predictor, batch: JudgedBatch, start: int) -> tuple[Decisions, list[Failure]]:
    found = Decisions(predictor.predict(batch.pixels).astype(np.float64), batch.truth)
    classes = predictor.run.classes
    failures = [
        Failure(
            float(found.confidence[i]),
            -(start + int(i)),
            batch.pixels[i],
            {
                "key": batch.samples[i].key,
                "truth": classes[batch.truth[i]],
                "predicted": classes[found.predicted[i]],
                "probability": float(found.confidence[i]),
            },
        )
        for i in np.flatnonzero(~found.right)
    ]
    return found, failures


def _segmented(predictor: Predictor, batch: JudgedBatch, start: int) -> tuple[Overlaps, list[Failure]]:
    probabilities = predictor.predict(batch.pixels)
    found, drawn = Overlaps.of(probabilities, batch.truth), probabilities.argmax(1)
    there = np.isfinite(found.dice)
    means = np.where(there, found.dice, 0).sum(1) / np.maximum(1, there.sum(1))
    failures = [
        Failure(
            1 - float(means[i]),
            -(start + int(i)),
            batch.pixels[i],
            {"key": batch.samples[i].key, "dice": float(means[i])},
            batch.truth[i],
            drawn[i],
        )
        for i in np.flatnonzero(there.any(1))
    ]
    return found, failures
