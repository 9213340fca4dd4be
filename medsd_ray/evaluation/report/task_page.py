"""The page of a task run's report, its cautions in plain words, and the lines for a terminal."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from medsd_ray.evaluation.report.format import FORMS, figure_line, interval_words
from medsd_ray.evaluation.report.template import render_template

FORMAT = "medsd-task-report/1"
FIGURES = {
    "classifier": {
        "accuracy": ("Accuracy", "percent", "images whose most likely class is theirs"),
        "balanced_accuracy": ("Balanced accuracy", "percent", "mean sensitivity over the classes"),
        "auroc": ("AUROC", "number", "each class against the others, mean over the classes"),
        "average_precision": ("Average precision", "number", "mean over the classes"),
        "f1": ("F1", "number", "mean over the classes"),
        "ece": ("Calibration error (ECE)", "number", "15 bins; 0 is best"),
        "brier": ("Brier score", "number", "sum over the classes, from 0 (best) to 2"),
    },
    "segmenter": {
        "dice": ("Dice", "number", "mean over images, then over the classes"),
        "iou": ("IoU", "number", "mean over images, then over the classes"),
        "hd95": ("HD95, px", "number", "95th percentile of the Hausdorff distance; lower is better"),
        "ece": ("Pixels' calibration error (ECE)", "number", "15 bins, all pixels; 0 is best"),
    },
}
"""Task -> figure -> its name, its form and what it is."""
CLASS_FIGURES = {
    "classifier": {
        "sensitivity": ("Sensitivity", "percent"),
        "specificity": ("Specificity", "percent"),
        "auroc": ("AUROC", "number"),
        "average_precision": ("Average precision", "number"),
        "f1": ("F1", "number"),
    },
    "segmenter": {"dice": ("Dice", "number"), "iou": ("IoU", "number"), "hd95": ("HD95, px", "number")},
}
"""The same of one class."""


def cautions(report: Mapping[str, Any]) -> list[str]:
    """What limits these figures, in sentences, from the figures themselves."""
    said = list(report["notes"])
    if report["split"] == "validation":
        said.append(
            "There is no test split, or it was not asked for: the validation split judges, which may have "
            "chosen the checkpoint or the settings too. The figures may be too good."
        )
    for why, count in report["left_out"].items():
        said.append(f"{count} images are left out, as they {why}.")
    overall, headline = report["figures"], next(iter(FIGURES[report["task"]]))
    if why := overall.get(f"{headline}_interval_reason"):
        said.append(f"{FIGURES[report['task']][headline][0]} has no interval: {why}.")
    if report["task"] == "segmenter":
        for row in report["by_class"]:
            if row["false_alarms"]:
                said.append(
                    f"{row['false_alarms']} images without {row['class']} had some drawn, which Dice, IoU "
                    "and HD95 do not count."
                )
            if row["missed"]:
                said.append(
                    f"In {row['missed']} images with {row['class']} none was drawn: Dice and IoU are 0 "
                    "there, and HD95 is not defined and left out."
                )
    return said


def render(report: dict[str, Any], pictures: Mapping[str, bytes], curves: Mapping[str, str | None]) -> bytes:
    """The page, one file. `pictures` are its PNGs by file name; `curves` are data: URIs by what they show."""
    return render_template(
        "medsd_ray.evaluation.report",
        "task_report.html.j2",
        report=report,
        figures=FIGURES[report["task"]],
        class_figures=CLASS_FIGURES[report["task"]],
        pictures={name: picture_uri(data) for name, data in pictures.items()},
        curves={words: uri for words, uri in curves.items() if uri},
    )


def picture_uri(png: bytes) -> str:
    """A PNG as a data: URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def summary(report: Mapping[str, Any]) -> str:
    """A table for the terminal: the figures of all images and of each domain."""
    overall, task = report["figures"], report["task"]
    lines = [f"{report['task']} of {report['subject']}, judged by {report['reference']}"]
    for name, (words, form, _) in FIGURES[task].items():
        lines.append(figure_line(overall, name, words, form))
    headline = next(iter(FIGURES[task]))
    words, form, _ = FIGURES[task][headline]
    if len(report["by_domain"]) > 1:
        for row in report["by_domain"]:
            label = f"{words}, domain {row['domain']}"
            beside = interval_words(row, headline, FORMS[form], "95%: ")
            lines.append(f"{label:<32}{FORMS[form](row[headline]):>8}  {beside}".rstrip())
    for section in report["by_subgroup"]:
        if section["gap"] is not None:
            lines.append(
                f"{words}, gap by {section['field']:<18}{FORMS[form](section['gap']):>8}  best "
                f"{section['best']}, worst {section['worst']}"
            )
    return "\n".join(lines)
