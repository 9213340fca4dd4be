"""The figures that a trial of a study may be judged by: what each needs and gives, and which way is better.

How they are computed is in `evaluation`; here is what a study may name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

Direction = Literal["min", "max"]


@dataclass(frozen=True)
class Figure:
    """A figure, or several that are computed together.

    Attributes:
        of: What a run trains that has it: components, classifier, segmenter.
        needs: `run`: the record of training; `images` that the model makes; the `model` itself;
            `predictions` on real images.
        metrics: Name -> whether a lower or a higher value is better.
        shown: How many of them, the first, a study's table shows.
        usual: Whether a study that names no figures has it.
    """

    of: tuple[str, ...]
    needs: Literal["run", "images", "model", "predictions"]
    metrics: Mapping[str, Direction]
    shown: int = 1
    usual: bool = True


FIGURES: dict[str, Figure] = {
    "following": Figure(("components",), "images", {"insertion_accuracy": "max"}),
    "distances": Figure(
        ("components",),
        "images",
        {"fid": "min", "kid": "min", **dict.fromkeys(("precision", "recall", "density", "coverage"), "max")},
        shown=2,
    ),
    "localization": Figure(
        ("components",),
        "model",
        {"localization_auroc": "max", "pointing": "max", "cnr": "max", "localization_miou": "max"},
        shown=2,
        usual=False,
    ),
    "classification": Figure(
        ("classifier",),
        "predictions",
        {
            **dict.fromkeys(("accuracy", "auroc", "balanced_accuracy", "f1"), "max"),
            **dict.fromkeys(("ece", "brier"), "min"),
            "worst_domain_accuracy": "max",
        },
        shown=3,
    ),
    "segmentation": Figure(
        ("segmenter",),
        "predictions",
        {"dice": "max", "iou": "max", "hd95": "min", "ece": "min", "worst_domain_dice": "max"},
        shown=3,
    ),
    "training": Figure(("components", "classifier", "segmenter"), "run", {"validation_loss": "min"}),
}
DIRECTIONS: dict[str, Direction] = {
    name: direction for figure in FIGURES.values() for name, direction in figure.metrics.items()
}
"""Metric -> which way is better."""

FigureName = Annotated[str, Field(json_schema_extra={"enum": list(FIGURES)})]
Metric = Annotated[str, Field(json_schema_extra={"enum": list(DIRECTIONS)})]


def usual(subject: str) -> list[str]:
    """The figures of a study that names none, by what its runs train."""
    return [name for name, figure in FIGURES.items() if figure.usual and subject in figure.of]


def metrics_of(figures: Iterable[str]) -> list[str]:
    """What these figures give together, and the validation loss, which every run has."""
    return list(dict.fromkeys(name for one in [*figures, "training"] for name in FIGURES[one].metrics))


def shown_metrics(figures: Iterable[str]) -> list[str]:
    """Those of them that a study's table shows."""
    every = dict.fromkeys([*figures, "training"])
    return [name for one in every for name in list(FIGURES[one].metrics)[: FIGURES[one].shown]]
