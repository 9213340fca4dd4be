"""Protocols of the field by name, as plain data: which images, which features and which figures, so that they
compare.

A protocol changes nothing of the report's own sections; its figures stand in a section of their own, each
with what it was computed from. What a protocol asks for and these images or extractors do not give is named
there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medsd_ray.data.shards import iter_samples, list_splits
from medsd_ray.errors import InputError
from medsd_ray.evaluation.estimates import put
from medsd_ray.storage import FolderStorage


@dataclass(frozen=True)
class Similarity:
    """MS-SSIM over `prompts` prompts with `images` images each, all pairs of a prompt's."""

    prompts: int
    images: int


@dataclass(frozen=True)
class Reidentification:
    """`prompts` training prompts, `images` images of each from as many seeds, against the prompt's training
    image.
    """

    prompts: int
    images: int


@dataclass(frozen=True)
class Protocol:
    """`images`: of each side at most, None for all. `per_prompt`: images to generate of a prompt, of which
    the first one enters the distances. `unique_real`: one real image of each caption. `fid`, `kid`, `prdc`
    name extractors.
    """

    name: str
    paper: str
    images: int | None
    per_prompt: int
    unique_real: bool
    fid: tuple[str, ...]
    kid: tuple[str, ...] = ()
    prdc: tuple[str, ...] = ()
    ms_ssim: Similarity | None = None
    alignment: bool = False
    per_finding: bool = False
    reidentification: Reidentification | None = None


PROTOCOLS = {
    one.name: one
    for one in (
        Protocol(
            name="roentgen",
            paper="Chambon et al. 2022, RoentGen, arXiv 2211.12737",
            images=5000,
            per_prompt=4,
            unique_real=False,
            fid=("inception", "clip", "xrv"),
            ms_ssim=Similarity(prompts=2000, images=4),
        ),
        Protocol(
            name="chexgenbench",
            paper="Dutt et al. 2025, CheXGenBench, arXiv 2505.10496",
            images=None,
            per_prompt=1,
            unique_real=True,
            fid=("inception", "rad-dino"),
            kid=("inception", "rad-dino"),
            prdc=("rad-dino",),
            alignment=True,
            per_finding=True,
            reidentification=Reidentification(prompts=2000, images=10),
        ),
    )
}


def key(caption: str) -> str:
    """A caption as a file of prompts, one a line, can hold it."""
    return " ".join(caption.split())


def row(figure: str, features: str | None, finding: str | None, value: Any, **counts: int) -> dict[str, Any]:
    """One figure, or null and why not, with the counts that it is from."""
    one: dict[str, Any] = {"figure": figure, "features": features, "finding": finding}
    put(one, "value", value)
    return one | counts


def write_prompts(name: str, real: str, out: Path, *, reidentify: bool = False, seed: int = 0) -> list[str]:
    """Writes the captions that the protocol generates images of, one a line, and prints the command that
    does.

    They are of held-out images, or to `reidentify` of training images. Raises InputError for shards without
    them.
    """
    protocol = PROTOCOLS[name]
    if reidentify and protocol.reidentification is None:
        raise InputError(f"{name} has no re-identification; leave out --reidentify")
    splits = list_splits(real)
    split = "train" if reidentify else next((one for one in ("test", "validation") if one in splits), "test")
    captions = list(
        dict.fromkeys(key(sample.caption) for sample in iter_samples(real, split) if sample.caption.strip())
    )
    if not captions:
        raise InputError(f"{real}: no captions in the {split} split; prepare images with reports")
    limit = protocol.reidentification.prompts if reidentify and protocol.reidentification else protocol.images
    if limit is not None and len(captions) > limit:
        chosen = np.random.default_rng([seed, 59]).permutation(len(captions))[:limit]
        captions = [captions[i] for i in sorted(chosen)]
    each = (
        protocol.reidentification.images if reidentify and protocol.reidentification else protocol.per_prompt
    )
    FolderStorage(out.parent).write(out.name, ("\n".join(captions) + "\n").encode())
    print(f"{out}: {len(captions)} captions of the {split} split, {each} images of each:")
    print(f"medsd generate MODEL --prompts {out} --num-images {each * len(captions)} --out DIR")
    return captions
