"""Where a trial's model looks, as a study asks for it and as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medsd_ray.evaluation.localize import LocalizeOptions
from medsd_ray.spec.study import StudySpec

NAMES = {
    "localization_auroc": "auroc",
    "pointing": "pointing",
    "cnr": "cnr",
    "localization_miou": "miou",
}
"""Metric of a study -> figure of the report."""


def localization_options(study: StudySpec, model: str, out: str, use_gpu: bool | None) -> LocalizeOptions:
    """What `medsd localize` is asked for of a trial's model."""
    how = study.evaluation
    words = tuple((mask, said) for mask, every in how.words.items() for said in every)
    return LocalizeOptions(
        model, study.shards, out, words=words, split=how.split, num_images=how.num_images, seed=how.seed,
        use_gpu=use_gpu,
    )  # fmt: skip


def localization_metrics(report: Mapping[str, Any]) -> dict[str, float | None]:
    """Metric -> value, of a report of `medsd localize`."""
    return {name: report["figures"][figure] for name, figure in NAMES.items()}
