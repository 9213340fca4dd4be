"""Pictures and curves as data: URIs, so that the report is one file. Colours are legible on light and dark
pages.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image

from medsd_ray.evaluation.figures.memorisation import SpaceCheck
from medsd_ray.evaluation.inputs import ImageSet
from medsd_ray.evaluation.report.format import png_bytes
from medsd_ray.runs.progress import VALIDATED

COLOURS = {"real": "#3a9d5d", "generated": "#3b82d6", "base": "#d98324"}
WORDS = {"real": "real (training)", "generated": "generated", "base": "before adaptation"}
INK = "#7d8590"
MAX_SHOWN = 256  # px
ROWS, COLUMNS = 4, 8


def image_uri(pixels: np.ndarray) -> str:
    """(H, W, C) uint8 as a PNG data: URI, shrunk to 256 px where larger."""
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((MAX_SHOWN, MAX_SHOWN), Image.Resampling.LANCZOS)
    return "data:image/png;base64," + base64.b64encode(png_bytes(picture, optimize=True)).decode()


def picture_rows(real: ImageSet, generated: ImageSet, base: ImageSet | None) -> list[dict]:
    """For the commonest prompts: real, generated and base images, the first ones of each, none chosen by
    looks.

    Each row is {"prompt", "panels": [{"kind", "title", "images": [URI]}]}; real images are those with the
    prompt as caption, or any where no caption equals it.
    """
    prompts = [prompt for prompt, _ in Counter(generated.captions).most_common(ROWS)]
    # The prompts' own order, where there are few, keeps "without" before "with"; generate takes prompts in
    # turn.
    prompts.sort(key=generated.captions.index)
    return [
        {"prompt": p, "panels": [_panel(kind, s, p) for kind, s in _sets(real, generated, base)]}
        for p in prompts
    ]


def _sets(real: ImageSet, generated: ImageSet, base: ImageSet | None) -> list[tuple[str, ImageSet]]:
    sets = [("real", real), ("generated", generated)]
    return [*sets, ("base", base)] if base else sets


def _panel(kind: str, images: ImageSet, prompt: str) -> dict:
    matching = [i for i, caption in enumerate(images.captions) if caption == prompt]
    title = {"real": "Real, held out", "generated": "Generated", "base": "Before adaptation"}[kind]
    if not matching:
        matching, title = list(range(len(images))), title + (" (any caption)" if prompt else "")
    first = {images.groups[i]: i for i in reversed(matching)}  # one image of each patient
    return {
        "kind": kind,
        "title": title,
        "images": [image_uri(images.pixels[i]) for i in sorted(first.values())[:COLUMNS]],
    }


def memorisation_pairs(check: SpaceCheck, generated: ImageSet, train: ImageSet, count: int = 6) -> list[dict]:
    """The generated images most like one training image, as URIs, each with that image, both names and the
    ratio.
    """
    order = np.argsort(check.generated.ratio)[:count]
    return [
        {
            "generated": image_uri(generated.pixels[i]),
            "real": image_uri(train.pixels[check.generated.index[i]]),
            "file": generated.keys[i],
            "key": train.keys[check.generated.index[i]],
            "ratio": float(check.generated.ratio[i]),
            "flagged": bool(check.generated.ratio[i] < check.threshold),
        }
        for i in order
    ]


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(True, color=INK, alpha=0.2, linewidth=0.6)
    return figure, axes


def _svg(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _legend(axes: Any) -> None:
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)


def loss_curve(metrics: list[dict]) -> str | None:
    """Training and validation loss over steps as an SVG URI; None where the run logged no loss."""
    training = [(m["step"], m["loss"]) for m in metrics if m.get("loss") is not None]
    validation = [(m["step"], m["validation_loss"]) for m in metrics if m.get("validation_loss") is not None]
    if not training and not validation:
        return None
    figure, axes = new_figure(8, 3)
    if training:
        steps, losses = np.array(training, dtype=float).T
        window = max(1, len(losses) // 20)
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        axes.plot(steps, losses, color=COLOURS["generated"], alpha=0.35, linewidth=1, label="training loss")
        if window > 1:
            axes.plot(
                steps[window - 1 :],
                smooth,
                color=COLOURS["generated"],
                linewidth=1.8,
                label=f"mean of {window} points",
            )
    if validation:
        steps, losses = np.array(validation, dtype=float).T
        axes.plot(
            steps,
            losses,
            "o-",
            color=COLOURS["base"],
            markersize=4,
            linewidth=1.4,
            label="validation loss (EMA weights)",
        )
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss")
    _legend(axes)
    return _svg(figure)


def figures_curve(metrics: list[dict]) -> str | None:
    """What validation measured beside the loss over steps, as an SVG URI; None where that is nothing."""
    found = {
        words: [(m["step"], m[name]) for m in metrics if m.get(name) is not None]
        for name, words in VALIDATED.items()
    }
    if not any(found.values()):
        return None
    figure, axes = new_figure(8, 2.4)
    colours = (COLOURS["base"], COLOURS["real"], COLOURS["generated"])
    for colour, (words, points) in zip(colours, found.items(), strict=True):
        if points:
            steps, values = np.array(points, dtype=float).T
            axes.plot(steps, values, "o-", color=colour, markersize=4, linewidth=1.4, label=words)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("of validation images")
    _legend(axes)
    return _svg(figure)


def interval_plot(section: dict, label: str) -> str | None:
    """A section's figures for real, generated and base with their intervals, where they have one, as an SVG
    URI; None where no figure is there.
    """
    names = [n for n in ("base", "generated", "real") if section.get(n) is not None]
    if not names:
        return None
    figure, axes = new_figure(8, 0.7 + 0.42 * len(names))
    for row, name in enumerate(names):
        if interval := section[f"{name}_interval"]:
            axes.plot(
                interval, [row, row], color=COLOURS[name], linewidth=3, solid_capstyle="round", alpha=0.6
            )
        axes.plot([section[name]], [row], "o", color=COLOURS[name], markersize=8)
    axes.set_yticks(range(len(names)), [WORDS[n] for n in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel(label)
    if min((section[f"{n}_interval"] or [section[n]])[0] for n in names) >= 0:
        nearest, farthest = (pick(section[n] for n in names) for pick in (min, max))
        if farthest > 20 * nearest > 0:  # else the near ones fall on one spot
            axes.set_xscale("symlog", linthresh=nearest, linscale=0.5)
            axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(left=0)
    return _svg(figure)


def ratio_plot(check: SpaceCheck) -> str:
    """How near images come to one training image: held-out real ones, generated ones and the threshold, as an
    SVG URI.
    """
    figure, axes = new_figure(8, 2.4)
    bins = np.linspace(0, max(1.0, float(check.generated.ratio.max()), float(check.held_out.ratio.max())), 51)
    for name, found, words in (
        ("real", check.held_out, "held-out real"),
        ("generated", check.generated, "generated"),
    ):
        weights = np.full(len(found.ratio), 1 / len(found.ratio))
        axes.hist(found.ratio, bins=list(bins), weights=weights, color=COLOURS[name], alpha=0.5, label=words)
    axes.axvline(check.threshold, color="#d64545", linewidth=1.5, linestyle="--", label="flagged below")
    axes.set_xlabel("distance to the nearest training image / mean distance to the next 50")
    axes.set_ylabel("share of images")
    _legend(axes)
    return _svg(figure)
