"""CLIP score: how well images agree with their text, by a model of CLIP's layout (Hessel et al. 2021)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medsd_ray.evaluation.estimates import Missing, put
from medsd_ray.evaluation.figures.sets import NO_BASE, Sets
from medsd_ray.evaluation.networks.image_text import cosines


def clip_score(folder: str | Path, pixels: np.ndarray, prompts: list[str]) -> tuple[float, float]:
    """Mean and deviation of 100·max(cos(image, prompt), 0) over images (Hessel et al. 2021, arXiv 2104.08718,
    unscaled).
    """
    scores = 100 * cosines(folder, pixels, prompts).clip(min=0)
    return float(scores.mean()), float(scores.std())


def clip_section(folder: str | None, sets: Sets) -> dict:
    """Image-text agreement by a CLIP model, of generated, base and held-out real images with their text."""
    section: dict[str, Any] = {"model": folder}
    for name, images in (("generated", sets.generated), ("real", sets.held_out), ("base", sets.base)):
        if folder is None:
            put(section, name, Missing("no CLIP model was given (--clip)"))
        elif images is None:
            put(section, name, NO_BASE)
        elif not any(images.captions):
            put(section, name, Missing("these images have no text"))
        else:
            known = images.take([i for i, caption in enumerate(images.captions) if caption])
            section[name], section[f"{name}_std"] = clip_score(folder, known.pixels, known.captions)
    return section
