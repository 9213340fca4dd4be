"""The figures of a named protocol: a row each, with what it was computed from, or null and why not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from medsd_ray.errors import InputError
from medsd_ray.evaluation.estimates import Missing, figure_row
from medsd_ray.evaluation.figures import distances, diversity
from medsd_ray.evaluation.figures.protocol_images import by_finding, select_images, square
from medsd_ray.evaluation.figures.reidentification import reidentify
from medsd_ray.evaluation.figures.sets import Sets
from medsd_ray.evaluation.inputs import ImageSet
from medsd_ray.evaluation.messages import Say
from medsd_ray.evaluation.networks.extractors import Extractor, clip_images, rad_dino
from medsd_ray.evaluation.networks.image_text import cosines
from medsd_ray.evaluation.networks.siamese import Siamese, load_siamese
from medsd_ray.evaluation.networks.weights import fingerprint, local_path
from medsd_ray.evaluation.protocols import (
    PROTOCOLS,
    PromptSimilarity,
    Protocol,
    ProtocolOptions,
    prompt_key,
)

SQUARE = ("xrv",)  # extractors whose input is cut to a square, never squeezed to one


@dataclass(frozen=True)
class LoadedProtocol:
    """A protocol with its extractors loaded, or why they are not there."""

    protocol: Protocol
    extractors: dict[str, Extractor | Missing]
    alignment: str | Missing  # a local folder
    siamese: Siamese | Missing
    reidentify: str | None

    def descriptions(self) -> list[str]:
        """What its figures depend on besides the images."""
        named = [str(e if isinstance(e, Missing) else e.description) for e in self.extractors.values()]
        network = self.siamese if isinstance(self.siamese, Missing) else self.siamese.description
        return [self.protocol.name, *named, self.alignment, network]


def load_protocol(
    options: ProtocolOptions, extractors: dict[str, Extractor | Missing], clip: str | None
) -> LoadedProtocol:
    """Loads what the protocol needs and the options name. Raises InputError for a name that is no protocol's,
    and for what cannot be loaded.
    """
    protocol = PROTOCOLS.get(options.name)
    if protocol is None:
        raise InputError(f"protocol {options.name!r} is not known; choose {' or '.join(PROTOCOLS)}")
    extra: dict[str, Extractor | Missing] = {
        "clip": clip_images(local_path(clip)) if clip else Missing("no CLIP ViT-B/32 was given (--clip)"),
        "rad-dino": rad_dino(local_path(options.rad_dino))
        if options.rad_dino
        else Missing("no RadDINO was given (--rad-dino)"),
    }
    wanted = dict.fromkeys((*protocol.fid, *protocol.kid, *protocol.prdc))
    return LoadedProtocol(
        protocol,
        {name: (extractors | extra)[name] for name in wanted},
        str(local_path(options.alignment))
        if options.alignment
        else Missing("no image-text encoder was given (--alignment)"),
        load_siamese(local_path(options.siamese))
        if options.siamese
        else Missing("no weight file was given (--siamese)"),
        options.reidentify,
    )


def protocol_section(
    loaded: LoadedProtocol, sets: Sets, seed_images: ImageSet | Missing, seed: int, say: Say
) -> dict[str, Any]:
    """`figures`: rows; `deviations`: what the protocol asks for that these images and extractors do not
    give.
    """
    protocol = loaded.protocol
    say(f"evaluate: protocol {protocol.name}")
    real, generated, deviations = select_images(protocol, sets.held_out, sets.generated, seed)
    measured = _measure(loaded, real, generated)
    rows = _rows(protocol, measured, None, range(len(real)), range(len(generated)))
    if protocol.ms_ssim:
        rows.append(_ms_ssim(protocol.ms_ssim, sets.generated, deviations))
    if protocol.per_finding:
        for finding, ours, theirs in by_finding(real, generated):
            rows += _rows(protocol, measured, finding, ours, theirs)
    if protocol.reidentification:
        latent = loaded.extractors["rad-dino"]
        rows += reidentify(
            protocol.reidentification, loaded.siamese, latent, sets.train, seed_images, deviations
        )
    deviations += [f"{name}: {why}" for name, why in loaded.extractors.items() if isinstance(why, Missing)]
    return {
        "name": protocol.name,
        "paper": protocol.paper,
        "asks": asdict(protocol),
        "extractors": _described(loaded),
        "figures": rows,
        "deviations": deviations,
    }


def _described(loaded: LoadedProtocol) -> dict[str, str]:
    found = {name: e.description for name, e in loaded.extractors.items() if isinstance(e, Extractor)}
    if isinstance(loaded.siamese, Siamese):
        found["siamese"] = loaded.siamese.description
    if not isinstance(loaded.alignment, Missing):
        weights = fingerprint(Path(loaded.alignment))[:12]
        found["alignment"] = (
            f"a model of CLIP's layout (weights {weights}); its cosines compare with no other encoder's"
        )
    return found


@dataclass(frozen=True)
class Measured:
    """Features (N, D) of the real and of the generated images by extractor, and the cosine of each generated
    image that has a prompt, NaN of others.
    """

    features: dict[str, tuple[np.ndarray, np.ndarray] | Missing]
    cosines: np.ndarray | Missing


def _measure(loaded: LoadedProtocol, real: ImageSet, generated: ImageSet) -> Measured:
    features: dict[str, tuple[np.ndarray, np.ndarray] | Missing] = {}
    for name, extractor in loaded.extractors.items():
        if isinstance(extractor, Missing):
            features[name] = extractor
        elif not len(generated):
            features[name] = Missing("no generated image has a prompt that this protocol asks for")
        else:
            cut = square if name in SQUARE else lambda pixels: pixels
            features[name] = extractor(cut(real.pixels)), extractor(cut(generated.pixels))
    agreement: np.ndarray | Missing
    if loaded.protocol.alignment and not isinstance(loaded.alignment, Missing):
        agreement = np.full(len(generated), np.nan)
        known = [i for i, prompt in enumerate(generated.captions) if prompt]
        if known:
            some = generated.take(known)
            agreement[known] = cosines(loaded.alignment, some.pixels, some.captions)
    else:
        agreement = Missing(str(loaded.alignment))
    return Measured(features, agreement)


def _rows(
    protocol: Protocol, measured: Measured, finding: str | None, ours: Sequence[int], theirs: Sequence[int]
) -> list[dict[str, Any]]:
    """FID, KID, precision, recall, density, coverage and alignment over these real and generated images."""
    rows, counts = [], {"real": len(ours), "generated": len(theirs)}
    for name, both in measured.features.items():
        values = both if isinstance(both, Missing) else (both[0][list(ours)], both[1][list(theirs)])
        if name in protocol.fid:
            rows.append(figure_row("fid", name, finding, _of(values, distances.frechet_distance), **counts))
        if name in protocol.kid:
            rows.append(figure_row("kid", name, finding, _of(values, _kid), **counts))
        if name in protocol.prdc:
            four = _of(values, distances.prdc)
            for figure in ("precision", "recall", "density", "coverage"):
                rows.append(
                    figure_row(
                        figure, name, finding, four if isinstance(four, Missing) else four[figure], **counts
                    )
                )
    if protocol.alignment:
        agreement: Any = measured.cosines
        if not isinstance(agreement, Missing):
            known = agreement[list(theirs)]
            known = known[np.isfinite(known)]
            agreement = float(known.mean()) if len(known) else Missing("no image has a prompt")
        rows.append(figure_row("alignment", "alignment", finding, agreement, generated=len(theirs)))
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


def _ms_ssim(asks: PromptSimilarity, generated: ImageSet, deviations: list[str]) -> dict[str, Any]:
    """The mean over all pairs of the first `images` images of each of the first `prompts` prompts that have
    so many.
    """
    members: dict[str, list[int]] = {}
    for index, prompt in enumerate(map(prompt_key, generated.captions)):
        if prompt:
            members.setdefault(prompt, []).append(index)
    full = [some[: asks.images] for some in members.values() if len(some) >= asks.images][: asks.prompts]
    if len(full) < asks.prompts:
        deviations.append(
            f"MS-SSIM is to be over {asks.prompts} prompts of {asks.images} images each; {len(full)} have "
            "so many"
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
    return figure_row("ms_ssim", None, None, value, prompts=len(full), pairs=len(pairs))
