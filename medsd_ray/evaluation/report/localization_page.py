"""The page of `medsd localize`, and the lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medsd_ray.evaluation.report.format import figure_line, percent
from medsd_ray.evaluation.report.task_page import picture_uri
from medsd_ray.evaluation.report.template import render_template

FIGURES = {
    "auroc": ("AUROC of pixels", "number", "1 is best; attention anywhere gives 0.5"),
    "pointing": ("Pointing game", "percent", "images whose highest pixel lies in the mask"),
    "cnr": ("Contrast to noise", "number", "of attention in and out of the mask; 0 is none"),
    "iou": ("IoU", "number", "of the map cut in two by a mixture of Gaussians"),
    "miou": ("Mean IoU", "number", "of it and of the background's"),
    "distance": ("Centres apart, px", "number", "of what is cut and of the mask"),
    "auroc_of_perfect": (
        "AUROC of the mask itself",
        "number",
        "at the map's size: the most that a map can have",
    ),
}
"""Figure -> its name, its form and what it is."""


def render(report: dict[str, Any], pictures: Mapping[str, bytes]) -> bytes:
    """The page, one file. `pictures` are its PNGs by file name."""
    return render_template(
        "medsd_ray.evaluation.report",
        "localization.html.j2",
        report=report,
        figures=FIGURES,
        pictures={name: picture_uri(data) for name, data in pictures.items()},
    )


def summary(report: Mapping[str, Any]) -> str:
    """A table for the terminal: the figures over all findings."""
    overall = report["figures"]
    height, width = report["map_size"]
    lines = [
        f"{overall['images']} findings of {overall['patients']} patients, maps of {height}x{width}; "
        f"{percent(overall['named'])} of the captions name the finding"
    ]
    lines += [figure_line(overall, name, words, form) for name, (words, form, _) in FIGURES.items()]
    return "\n".join(lines)
