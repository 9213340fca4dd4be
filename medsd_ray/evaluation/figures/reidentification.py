"""Do the images of a training prompt give away its training image? Every seed's image against it, by three
distances.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medsd_ray.evaluation.estimates import Missing, figure_row
from medsd_ray.evaluation.figures.sets import NO_TRAIN
from medsd_ray.evaluation.inputs import ImageSet
from medsd_ray.evaluation.networks.extractors import Extractor
from medsd_ray.evaluation.networks.siamese import Siamese
from medsd_ray.evaluation.protocols import Reidentification, prompt_key

Group = tuple[int, list[int]]  # a training image, and the generated images of its prompt


FIGURES = {  # name -> the features it is of, and how the nearest of a prompt's images is found
    "reidentification_score": ("siamese", "max"),
    "pixel_distance": ("pixels", "min"),
    "latent_distance": ("rad-dino", "min"),
}


def pixel_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Root mean square difference of two uint8 images in levels (0 to 255), as floats: uint8 itself would
    wrap around.
    """
    return float(np.sqrt(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2)))


def reidentify(
    asks: Reidentification, siamese: Siamese | Missing, latent: Extractor | Missing, train: ImageSet | None,
    seeds: ImageSet | Missing, deviations: list[str],
) -> list[dict[str, Any]]:  # fmt: skip
    """Of each training prompt's images, every seed's: how near the nearest one and the mean one come to the
    training image.

    The score is the siamese network's, that both are of one patient; distances are root mean squares. Each
    figure is the mean over prompts. `deviations` gets what is short.
    """
    groups: list[Group] = []
    if isinstance(seeds, Missing):
        why = seeds
    elif train is None:
        why = NO_TRAIN
    else:
        groups = _groups(asks, train, seeds, deviations)
        why = Missing("no prompt of --reidentify is a caption of a training image")
    rows = []
    for name, (features, nearest) in FIGURES.items():
        values: Any = why
        if groups and train is not None and not isinstance(seeds, Missing):
            values = _values(name, siamese, latent, train, seeds, groups)
        for how in ("mean", nearest):
            pick = {"mean": np.mean, "max": np.max, "min": np.min}[how]
            value = values if isinstance(values, Missing) else float(np.mean([pick(some) for some in values]))
            counts = {"prompts": len(groups), "generated": sum(len(made) for _, made in groups)}
            rows.append(figure_row(f"{name}_{how}", features, None, value, **counts))
    return rows


def _values(
    name: str,
    siamese: Siamese | Missing,
    latent: Extractor | Missing,
    train: ImageSet,
    seeds: ImageSet,
    groups: list[Group],
) -> list[np.ndarray] | Missing:
    """For each prompt, one figure of each of its images."""
    if name == "pixel_distance":
        return [
            np.array([pixel_distance(train.pixels[real], seeds.pixels[i]) for i in made])
            for real, made in groups
        ]
    network: Any = siamese if name == "reidentification_score" else latent
    if isinstance(network, Missing):
        return network
    pair: Any = (
        (network.features, network.scores) if isinstance(network, Siamese) else (network, _root_mean_square)
    )
    extract, compare = pair
    real = extract(train.pixels[[one for one, _ in groups]])
    return [compare(real[place][None], extract(seeds.pixels[made])) for place, (_, made) in enumerate(groups)]


def _root_mean_square(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.sqrt(((one - other) ** 2).mean(1))


def _groups(asks: Reidentification, train: ImageSet, seeds: ImageSet, deviations: list[str]) -> list[Group]:
    """(training image, its prompt's generated images) of each prompt: the first training image with that
    caption.
    """
    first = {prompt_key(train.captions[i]): i for i in reversed(range(len(train))) if train.captions[i]}
    made: dict[str, list[int]] = {}
    for index, prompt in enumerate(map(prompt_key, seeds.captions)):
        if prompt in first:
            made.setdefault(prompt, []).append(index)
    groups = [(first[prompt], some[: asks.images]) for prompt, some in made.items()][: asks.prompts]
    short = sum(len(some) < asks.images for _, some in groups)
    if len(groups) < asks.prompts or short:
        deviations.append(
            f"re-identification is to be over {asks.prompts} training prompts of {asks.images} seeds; "
            f"there are {len(groups)}" + (f", {short} of them with fewer seeds" if short else "")
        )
    return groups
