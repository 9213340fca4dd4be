"""Pictures of a task run's report as PNG files, which the page shows too. Colours are legible on light and
dark pages.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageFilter

from medsd_ray.evaluation.figures.classification import Decisions, roc_curve
from medsd_ray.evaluation.figures.judgement import Judgement
from medsd_ray.evaluation.report.format import png_bytes
from medsd_ray.evaluation.report.plots import COLOURS, INK, new_figure

RELIABILITY, ROC, CONFUSION, FAILURES = "reliability.png", "roc.png", "confusion.png", "failures"
MOST_CURVES = 10
"""Classes whose ROC curves are drawn; more cannot be told apart."""
MOST_CELLS = 20
"""Classes of a confusion matrix that is drawn."""
SHOWN = 320
"""Height in pixels that a picture of a failure has at least, so that outlines are thin on it."""
LINE = 5
"""Of the filter that finds outlines: they are two pixels wide."""
TRUTH, DRAWN = "#3ddc84", "#ff9d2e"
"""Outlines of an image's mask, and of what the network drew."""


def pictures(report: dict[str, Any], found: Judgement) -> dict[str, bytes]:
    """File name -> PNG."""
    files = {RELIABILITY: _reliability(report["reliability"])}
    if isinstance(found.found, Decisions):
        if len(report["classes"]) <= MOST_CURVES:
            files[ROC] = _roc(found.found, report)
        if len(report["classes"]) <= MOST_CELLS:
            files[CONFUSION] = _confusion(np.array(report["confusion"]), report["classes"])
    for number, failure in enumerate(found.failures):
        picture = _enlarged(failure.pixels)
        if failure.truth is not None and failure.drawn is not None:
            picture = _outlined(picture, {TRUTH: failure.truth, DRAWN: failure.drawn})
        files[f"{FAILURES}/{number:02d}.png"] = png_bytes(picture, optimize=True)
    return files


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, transparent=True, metadata={"Software": None})
    return buffer.getvalue()


def _reliability(bins: list[dict[str, Any]]) -> bytes:
    """How often the network is right against how sure it is, and how many decisions each bin has."""
    figure, axes = new_figure(4.6, 4.6)
    filled = [one for one in bins if one["count"]]
    most = max(one["count"] for one in filled)
    for one in filled:
        width = one["to"] - one["from"]
        axes.bar(one["from"], one["accuracy"], width, align="edge", color=COLOURS["generated"], alpha=0.75)
        axes.bar(one["from"], 0.06 * one["count"] / most, width, align="edge", color=COLOURS["base"])
    axes.plot([0, 1], [0, 1], "--", color=INK, linewidth=1.2)
    axes.plot([one["confidence"] for one in filled], [one["accuracy"] for one in filled], "o", color=INK)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="how sure the network is", ylabel="share that is right")
    axes.set_aspect("equal")
    return _png(figure)


def _roc(found: Decisions, report: dict[str, Any]) -> bytes:
    """A curve for each class against the others; of two classes for the second."""
    figure, axes = new_figure(4.6, 4.6)
    classes = report["classes"]
    for number in range(len(classes)) if len(classes) > 2 else (1,):
        shares = roc_curve(found.probabilities[:, number], found.truth == number)
        axes.plot(*shares, linewidth=1.8, label=_short(classes[number]))
    axes.plot([0, 1], [0, 1], "--", color=INK, linewidth=1.2)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="false alarms", ylabel="found (sensitivity)")
    axes.set_aspect("equal")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")
    return _png(figure)


def _confusion(counts: np.ndarray, classes: list[str]) -> bytes:
    """Images by true and predicted class, shaded by the share of the true class."""
    side = 2.2 + 0.55 * len(classes)
    figure, axes = new_figure(side, side)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    axes.grid(False)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=9)
    names = [_short(name) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="the network says", ylabel="truth")
    return _png(figure)


def _short(name: str) -> str:
    """A name as an axis has room for; a dollar sign is no formula."""
    return (name if len(name) <= 24 else f"{name[:23]}…").replace("$", r"\$")


def _enlarged(pixels: np.ndarray) -> Image.Image:
    """(H, W, C) uint8 in colour, by a whole factor at least SHOWN high."""
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    factor = max(1, -(-SHOWN // picture.height))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)


def localization_picture(pixels: np.ndarray, attention: np.ndarray, truth: np.ndarray) -> bytes:
    """A PNG of an image (H, W, C) uint8 under a map (H, W), bright where it is high, and a mask's outline."""
    picture = _enlarged(pixels)
    low, high = float(attention.min()), float(attention.max())
    scaled = (attention - low) / max(high - low, 1e-12)
    heat = Image.fromarray((255 * colormaps["inferno"](scaled)[..., :3]).astype(np.uint8))
    mixed = Image.blend(picture, heat.resize(picture.size, Image.Resampling.BILINEAR), 0.5)
    return png_bytes(_outlined(mixed, {TRUTH: truth}), optimize=True)


def _outlined(picture: Image.Image, masks: Mapping[str, np.ndarray]) -> Image.Image:
    """The picture with the outlines of masks, (H, W) label maps by colour, the last one uppermost."""
    shown = np.array(picture)
    for colour, mask in masks.items():
        labels = Image.fromarray(mask.astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
        inner = np.asarray(labels.filter(ImageFilter.MinFilter(LINE)))
        edge = (np.asarray(labels) > 0) & (np.asarray(labels) != inner)
        shown[edge] = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return Image.fromarray(shown)
