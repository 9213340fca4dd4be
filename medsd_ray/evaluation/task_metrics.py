"""The figures of a task run's report as flat names, for a study that compares runs by one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FLAT = (
    "accuracy", "balanced_accuracy", "auroc", "average_precision", "f1", "ece", "brier", "dice", "iou",
    "hd95",
)  # fmt: skip
WORST = ("accuracy", "dice")
"""Of which the worst domain is told too."""


def task_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """From report.json to figure -> value, of those that are there: over all images, the run's
    `validation_loss`, and `worst_domain_accuracy` or `worst_domain_dice`, the lowest of a known domain.
    """
    overall = report["figures"]
    found = {name: overall[name] for name in FLAT if overall.get(name) is not None}
    if (loss := report.get("validation_loss")) is not None:
        found["validation_loss"] = loss
    for name in WORST:
        values = [row[name] for row in report["by_domain"] if row.get(name) is not None]
        if values:
            found[f"worst_domain_{name}"] = min(values)
    return found
