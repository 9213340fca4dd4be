"""What `medsd-small` is pretrained on: the phantoms' anatomy in many styles, and never an effusion."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import gaussian_filter

from medsd_ray.data.shards import Sample
from medsd_ray.data.sources.phantom import (
    Anatomy,
    coordinates,
    draw_anatomy,
    finish,
    lung_masks,
    radiograph,
    seeded,
    smooth_field,
    tissue,
)

STYLES = ("radiograph", "negative", "sketch", "silhouette", "soft", "grainy", "hatched", "faint", "textured")


def _styled(
    style: str, parts: dict[str, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, float, float]:
    """The drawing in one of STYLES: (brightness, noise, shading)."""
    none = np.zeros_like(parts["lungs"])
    plain = radiograph(parts, none, rng)
    size = len(plain)
    if style == "negative":
        return 1 - plain, 0.02, 0.03
    if style == "sketch":
        outlines = sum(np.hypot(*np.gradient(parts[name])) for name in ("body", "lungs", "heart", "ribs"))
        return 0.95 - np.clip(outlines * size / 16, 0, 0.9), 0.01, 0.01
    if style == "silhouette":
        levels = rng.permutation([0.1, 0.45, 0.8])
        flat = np.where(parts["body"] > 0.5, levels[0], levels[1])
        return np.where(parts["lungs"] > 0.5, levels[2], flat), 0.0, 0.0
    if style == "soft":
        return gaussian_filter(plain, rng.uniform(0.02, 0.05) * size), 0.0, 0.03
    if style == "grainy":
        return plain, rng.uniform(0.08, 0.15), 0.03
    if style == "hatched":
        line = np.arange(size) / size
        waves = np.sin(2 * np.pi * rng.uniform(8, 16) * (line[None] + rng.choice([-1, 1]) * line[:, None]))
        return plain + 0.12 * waves * parts["lungs"], 0.01, 0.02
    if style == "faint":
        return 0.5 + 0.4 * (plain - 0.5), 0.02, 0.04
    if style == "textured":
        return plain + rng.uniform(0.05, 0.12) * smooth_field(rng, size, rng.uniform(0.01, 0.08)), 0.02, 0.06
    return (
        plain * rng.uniform(0.8, 1.3) + rng.uniform(-0.05, 0.12),
        rng.uniform(0.01, 0.03),
        rng.uniform(0.02, 0.06),
    )


def draw_base(seed: int, index: int, size: int) -> Sample:
    """One drawing for `medsd-small`'s pretraining: any style, wider geometry, no effusion; a function of its
    arguments.
    """
    rng = seeded(seed, index, 3)
    a = draw_anatomy(rng)
    wide = Anatomy(
        **(
            vars(a)
            | {
                "tilt": rng.normal(0, 0.1),
                "zoom": rng.uniform(0.8, 1.3),
                "shift": tuple(rng.normal(0, 0.1, 2)),
                "lung_width": a.lung_width * rng.uniform(0.85, 1.15),
                "lung_height": a.lung_height * rng.uniform(0.75, 1.1),
            }
        )
    )
    x, y = coordinates(wide, size)
    parts = tissue(wide, lung_masks(wide, x, y), x, y, rng)
    for name in (
        "ribs",
        "spine",
        "vessels",
        "clavicle",
    ):  # parts differ in strength, as exposure and build do
        parts[name] = parts[name] * rng.uniform(0.2, 2.0)
    # Half the drawings are radiographs of some exposure; the other styles share the rest.
    style = "radiograph" if rng.random() < 0.5 else str(rng.choice(STYLES[1:]))
    image, noise, shading = _styled(style, parts, rng)
    caption = _base_caption(style, wide, rng)
    key = f"base-{seed}-{index:07d}"
    return Sample(
        key=key,
        image=finish(image, rng, noise, shading),
        caption=caption,
        patient=key,
        labels={"style": style},
    )


def _base_caption(style: str, a: Anatomy, rng: np.random.Generator) -> str:
    nouns = [
        "a chest x-ray",
        "a lung xray",
        "a chest radiograph",
        "a photo of a lung xray",
        "a frontal view of the chest",
    ]
    noun = str(rng.choice(nouns))
    text = noun if style == "radiograph" else f"a {style} drawing, {noun}"
    details = [
        "the heart is enlarged" if a.heart_enlarged else "heart size is normal",
        "large lungs" if a.lung_height * a.zoom > 0.8 else "small lungs",
        "turned to the left" if a.tilt > 0 else "turned to the right",
    ]
    chosen = [d for d in details if rng.random() < 0.4]
    return ", ".join([text, *chosen])


def base_samples(count: int, size: int, seed: int = 0) -> Iterator[Sample]:
    for index in range(count):
        yield draw_base(seed, index, size)
