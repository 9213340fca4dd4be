"""Which real and generated images the figures of a named protocol are from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medsd_ray.evaluation.figures.distances import draw
from medsd_ray.evaluation.inputs import ImageSet
from medsd_ray.evaluation.protocols import Protocol, prompt_key

FINDINGS = "|"  # between the findings of one image, as in NIH ChestX-ray14's tables


def first_of_each(captions: Sequence[str]) -> list[int]:
    """The index of each caption's first image, in order; images without one all count."""
    seen: set[str] = set()
    found = []
    for index, caption in enumerate(map(prompt_key, captions)):
        if not caption or caption not in seen:
            found.append(index)
        seen.add(caption)
    return found


def select_images(
    protocol: Protocol, real: ImageSet, generated: ImageSet, seed: int
) -> tuple[ImageSet, ImageSet, list[str]]:
    """The images that the distances compare, and in words where they are not those that the protocol asks
    for.
    """
    deviations = []
    generated = generated.take(first_of_each(generated.captions))
    if not any(generated.captions):
        deviations.append(
            "no prompts are known of the generated images: all of them count, and none has a finding"
        )
    if protocol.unique_real:
        real = real.take(first_of_each(real.captions))
        captions = {prompt_key(caption) for caption in real.captions}
        known = [
            i for i, prompt in enumerate(generated.captions) if prompt_key(prompt) in captions or not prompt
        ]
        if len(known) < len(generated):
            left = len(generated) - len(known)
            deviations.append(f"{left} images are left out: their prompts are no captions of held-out images")
            generated = generated.take(known)
        if len(generated) < len(real):
            deviations.append(
                f"of {len(real)} unique held-out captions {len(generated)} have a generated image"
            )
    if protocol.images is not None:
        if min(len(real), len(generated)) < protocol.images:
            there = f"{len(real)} real and {len(generated)} generated"
            deviations.append(f"it asks for {protocol.images} images a side; there are {there}")
        real = real.take(draw(real.groups, protocol.images, np.random.default_rng([seed, 53])))
        generated = generated.take(range(min(len(generated), protocol.images)))
    return real, generated, deviations


def by_finding(real: ImageSet, generated: ImageSet) -> list[tuple[str, list[int], list[int]]]:
    """For each finding: the real images that have it, and the generated ones whose prompt is a caption of
    those.
    """
    labels = [set((label or "").split(FINDINGS)) - {""} for label in real.labels]
    prompts = list(map(prompt_key, generated.captions))
    found = []
    for finding in sorted(set().union(*labels)):
        ours = [i for i, some in enumerate(labels) if finding in some]
        captions = {prompt_key(real.captions[i]) for i in ours} - {""}
        found.append((finding, ours, [i for i, prompt in enumerate(prompts) if prompt in captions]))
    return found


def square(pixels: np.ndarray) -> np.ndarray:
    """(N, H, W, C) cut evenly to squares."""
    height, width = pixels.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[:, top : top + side, left : left + side]
