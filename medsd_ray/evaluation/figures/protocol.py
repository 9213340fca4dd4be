"""The figures of a named protocol: a row each, with what it was computed from, or null and why not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from medsd_ray.errors import InputError
from medsd_ray.evaluation.estimates import Missing
from medsd_ray.evaluation.figures import distances, diversity
from medsd_ray.evaluation.figures.reidentification import reidentify
from medsd_ray.evaluation.figures.sections import Sets
from medsd_ray.evaluation.inputs import ImageSet
from medsd_ray.evaluation.networks import encoders
from medsd_ray.evaluation.networks.encoders import Siamese
from medsd_ray.evaluation.networks.features import Extractor, cosines
from medsd_ray.evaluation.protocols import PROTOCOLS, Protocol, Similarity, key, row

SQUARE = ("xrv",)  # extractors whose input is cut to a square, never squeezed to one


FINDINGS = "|"  # between the findings of one image, as in NIH ChestX-ray14's tables


Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """A protocol by name, and the addresses (path or s3://) of what only protocols use."""

    name: str
    rad_dino: str | None = None
    alignment: str | None = None
    siamese: str | None = None
    reidentify: str | None = None


@dataclass(frozen=True)
class Given:
    """A protocol with its extractors loaded, or why they are not there."""

    protocol: Protocol
    extractors: dict[str, Extractor | Missing]
    alignment: str | Missing  # a local folder
    siamese: Siamese | Missing
    reidentify: str | None

    def words(self) -> list[str]:
        """What its figures depend on besides the images."""
        named = [str(e if isinstance(e, Missing) else e.description) for e in self.extractors.values()]
        network = self.siamese if isinstance(self.siamese, Missing) else self.siamese.description
        return [self.protocol.name, *named, self.alignment, network]


def load(asked: Asked, loaded: dict[str, Extractor | Missing], clip: str | None) -> Given:
    """Loads what the protocol needs and is given. Raises InputError for another name, and for what cannot be
    loaded.
    """
    protocol = PROTOCOLS.get(asked.name)
    if protocol is None:
        raise InputError(f"protocol {asked.name!r} is not known; choose {' or '.join(PROTOCOLS)}")
    extra: dict[str, Extractor | Missing] = {
        "clip": encoders.clip_images(encoders.fetched(clip))
        if clip
        else Missing("no CLIP ViT-B/32 was given (--clip)"),
        "rad-dino": encoders.rad_dino(encoders.fetched(asked.rad_dino))
        if asked.rad_dino
        else Missing("no RadDINO was given (--rad-dino)"),
    }
    wanted = dict.fromkeys((*protocol.fid, *protocol.kid, *protocol.prdc))
    return Given(
        protocol,
        {name: (loaded | extra)[name] for name in wanted},
        str(encoders.fetched(asked.alignment))
        if asked.alignment
        else Missing("no image-text encoder was given (--alignment)"),
        encoders.siamese(encoders.fetched(asked.siamese))
        if asked.siamese
        else Missing("no weight file was given (--siamese)"),
        asked.reidentify,
    )


def section(given: Given, sets: Sets, seeds: ImageSet | Missing, seed: int, say: Say) -> dict[str, Any]:
    """`figures`: rows; `deviations`: what the protocol asks for that these images and extractors do not give."""
    protocol = given.protocol
    say(f"evaluate: protocol {protocol.name}")
    real, generated, deviations = chosen(protocol, sets.held_out, sets.generated, seed)
    measured = _measure(given, real, generated)
    rows = _rows(protocol, measured, None, range(len(real)), range(len(generated)))
    if protocol.ms_ssim:
        rows.append(_ms_ssim(protocol.ms_ssim, sets.generated, deviations))
    if protocol.per_finding:
        for finding, ours, theirs in by_finding(real, generated):
            rows += _rows(protocol, measured, finding, ours, theirs)
    if protocol.reidentification:
        latent = given.extractors["rad-dino"]
        rows += reidentify(protocol.reidentification, given.siamese, latent, sets.train, seeds, deviations)
    deviations += [f"{name}: {why}" for name, why in given.extractors.items() if isinstance(why, Missing)]
    return {
        "name": protocol.name, "paper": protocol.paper, "asks": asdict(protocol), "extractors": _described(given),
        "figures": rows, "deviations": deviations,
    }  # fmt: skip


def _described(given: Given) -> dict[str, str]:
    found = {name: e.description for name, e in given.extractors.items() if isinstance(e, Extractor)}
    if isinstance(given.siamese, Siamese):
        found["siamese"] = given.siamese.description
    if not isinstance(given.alignment, Missing):
        weights = encoders.fingerprint(Path(given.alignment))[:12]
        found["alignment"] = (
            f"a model of CLIP's layout (weights {weights}); its cosines compare with no other encoder's"
        )
    return found


def first_of_each(captions: Sequence[str]) -> list[int]:
    """The index of each caption's first image, in order; images without one all count."""
    seen: set[str] = set()
    found = []
    for index, caption in enumerate(map(key, captions)):
        if not caption or caption not in seen:
            found.append(index)
        seen.add(caption)
    return found


def chosen(
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
        captions = {key(caption) for caption in real.captions}
        known = [i for i, prompt in enumerate(generated.captions) if key(prompt) in captions or not prompt]
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
        real = real.take(distances.draw(real.groups, protocol.images, np.random.default_rng([seed, 53])))
        generated = generated.take(range(min(len(generated), protocol.images)))
    return real, generated, deviations


def by_finding(real: ImageSet, generated: ImageSet) -> list[tuple[str, list[int], list[int]]]:
    """For each finding: the real images that have it, and the generated ones whose prompt is a caption of
    those.
    """
    labels = [set((label or "").split(FINDINGS)) - {""} for label in real.labels]
    prompts = list(map(key, generated.captions))
    found = []
    for finding in sorted(set().union(*labels)):
        ours = [i for i, some in enumerate(labels) if finding in some]
        captions = {key(real.captions[i]) for i in ours} - {""}
        found.append((finding, ours, [i for i, prompt in enumerate(prompts) if prompt in captions]))
    return found


def square(pixels: np.ndarray) -> np.ndarray:
    """(N, H, W, C) cut evenly to squares."""
    height, width = pixels.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[:, top : top + side, left : left + side]


@dataclass(frozen=True)
class Measured:
    """Features (N, D) of the real and of the generated images by extractor, and the cosine of each generated
    image that has a prompt, NaN of others.
    """

    features: dict[str, tuple[np.ndarray, np.ndarray] | Missing]
    cosines: np.ndarray | Missing


def _measure(given: Given, real: ImageSet, generated: ImageSet) -> Measured:
    features: dict[str, tuple[np.ndarray, np.ndarray] | Missing] = {}
    for name, extractor in given.extractors.items():
        if isinstance(extractor, Missing):
            features[name] = extractor
        elif not len(generated):
            features[name] = Missing("no generated image has a prompt that this protocol asks for")
        else:
            cut = square if name in SQUARE else lambda pixels: pixels
            features[name] = extractor(cut(real.pixels)), extractor(cut(generated.pixels))
    agreement: np.ndarray | Missing
    if given.protocol.alignment and not isinstance(given.alignment, Missing):
        agreement = np.full(len(generated), np.nan)
        known = [i for i, prompt in enumerate(generated.captions) if prompt]
        if known:
            some = generated.take(known)
            agreement[known] = cosines(given.alignment, some.pixels, some.captions)
    else:
        agreement = Missing(str(given.alignment))
    return Measured(features, agreement)


def _rows(
    protocol: Protocol, measured: Measured, finding: str | None, ours: Sequence[int], theirs: Sequence[int]
) -> list[dict[str, Any]]:
    """FID, KID, precision, recall, density, coverage and alignment over these real and generated images."""
    rows, counts = [], {"real": len(ours), "generated": len(theirs)}
    for name, both in measured.features.items():
        values = both if isinstance(both, Missing) else (both[0][list(ours)], both[1][list(theirs)])
        if name in protocol.fid:
            rows.append(row("fid", name, finding, _of(values, distances.frechet_distance), **counts))
        if name in protocol.kid:
            rows.append(row("kid", name, finding, _of(values, _kid), **counts))
        if name in protocol.prdc:
            four = _of(values, distances.prdc)
            for figure in ("precision", "recall", "density", "coverage"):
                rows.append(
                    row(figure, name, finding, four if isinstance(four, Missing) else four[figure], **counts)
                )
    if protocol.alignment:
        agreement: Any = measured.cosines
        if not isinstance(agreement, Missing):
            known = agreement[list(theirs)]
            known = known[np.isfinite(known)]
            agreement = float(known.mean()) if len(known) else Missing("no image has a prompt")
        rows.append(row("alignment", "alignment", finding, agreement, generated=len(theirs)))
    return rows


def _of(
    values: tuple[np.ndarray, np.ndarray] | Missing, figure: Callable[[np.ndarray, np.ndarray], Any]
) -> Any:
    if isinstance(values, Missing):
        return values
    try:
        return figure(*values)
    except ValueError as error:
        return Missing(str(error))


def _kid(real: np.ndarray, generated: np.ndarray) -> float:
    """Over equally many of each, the first ones."""
    count = min(len(real), len(generated))
    if count < 2:
        raise ValueError("a kernel distance needs 2 samples of each set")
    return distances.kernel_distance(real[:count], generated[:count])


def _ms_ssim(asks: Similarity, generated: ImageSet, deviations: list[str]) -> dict[str, Any]:
    """The mean over all pairs of the first `images` images of each of the first `prompts` prompts that have
    so many.
    """
    members: dict[str, list[int]] = {}
    for index, prompt in enumerate(map(key, generated.captions)):
        if prompt:
            members.setdefault(prompt, []).append(index)
    full = [some[: asks.images] for some in members.values() if len(some) >= asks.images][: asks.prompts]
    if len(full) < asks.prompts:
        deviations.append(
            f"MS-SSIM is to be over {asks.prompts} prompts of {asks.images} images each; {len(full)} have so many"
        )
    scales = len(diversity.scales(min(generated.pixels.shape[1:3])))
    if scales < len(diversity.BETAS):
        deviations.append(
            f"MS-SSIM has {scales} of {len(diversity.BETAS)} scales, as the images are too small for all"
        )
    pairs = [pair for some in full for pair in combinations(some, 2)]
    value: Any = Missing(f"no prompt has {asks.images} images, or they are too small")
    if pairs and scales:
        value = float(diversity.of_pairs(generated.pixels, pairs).mean())
    return row("ms_ssim", None, None, value, prompts=len(full), pairs=len(pairs))
