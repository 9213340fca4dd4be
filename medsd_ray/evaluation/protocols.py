"""Protocols of the field by name, as plain data: which images, which features and which figures, so that they
compare.

A protocol changes nothing of the report's own sections; its figures stand in a section of their own, each
with what it was computed from. What a protocol asks for and these images or extractors do not give is named
there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ProtocolOptions:
    """A protocol by name, and the addresses (path or s3://) of what only protocols use.

    Attributes:
        name: One of PROTOCOLS.
        rad_dino: Folder of RadDINO.
        alignment: Folder of an image-text encoder in CLIP's layout.
        siamese: Weight file of the siamese ResNet-50 that says whether two X-rays are of one patient.
        reidentify: Images of training prompts, from several seeds each.
    """

    name: str
    rad_dino: str | None = None
    alignment: str | None = None
    siamese: str | None = None
    reidentify: str | None = None


@dataclass(frozen=True)
class PromptSimilarity:
    """MS-SSIM over `prompts` prompts with `images` images each, over all pairs of a prompt's images."""

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
    """What a paper measures.

    Attributes:
        name: What `--protocol` calls it.
        paper: Where it is from.
        images: How many images of each side are compared at most; None for all.
        per_prompt: How many images to generate of a prompt; the first one enters the distances.
        unique_real: Whether one real image of each caption is compared, or every one.
        fid: Extractors that FID is computed with.
        kid: Extractors that KID is computed with.
        prdc: Extractors that precision, recall, density and coverage are computed with.
        ms_ssim: How the similarity of images of one prompt is measured.
        alignment: Whether images are compared with their prompts by an image-text encoder.
        per_finding: Whether the distances are also computed for each finding alone.
        reidentification: How images of training prompts are compared with training images.
    """

    name: str
    paper: str
    images: int | None
    per_prompt: int
    unique_real: bool
    fid: tuple[str, ...]
    kid: tuple[str, ...] = ()
    prdc: tuple[str, ...] = ()
    ms_ssim: PromptSimilarity | None = None
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
            ms_ssim=PromptSimilarity(prompts=2000, images=4),
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


def prompt_key(caption: str) -> str:
    """A caption as a file of prompts, one a line, can hold it: so captions and prompts are compared."""
    return " ".join(caption.split())
