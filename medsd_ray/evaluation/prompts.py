"""`medsd prompts`: the prompts that a named protocol generates images of."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medsd_ray.addresses import path_of
from medsd_ray.data.shards import iter_samples, list_splits
from medsd_ray.errors import InputError
from medsd_ray.evaluation.protocols import PROTOCOLS, prompt_key
from medsd_ray.storage import FolderStorage


def write_prompts(name: str, real: str, out: Path, *, reidentify: bool = False, seed: int = 0) -> list[str]:
    """Writes the captions that a protocol generates images of, one a line, and prints the command that does.

    Args:
        name: One of PROTOCOLS.
        real: Image shards with reports.
        out: The text file.
        reidentify: Takes captions of training images, for re-identification, instead of held-out ones.
        seed: Of the choice among more captions than the protocol asks for.

    Returns:
        The captions.

    Raises:
        InputError: The shards hold no captions, or the protocol has no re-identification.
    """
    protocol = PROTOCOLS[name]
    if reidentify and protocol.reidentification is None:
        raise InputError(f"{name} has no re-identification; leave out --reidentify")
    out = path_of(out)
    if out.is_dir() or not out.name:
        raise InputError(f"{out}: a folder; give --out the name of a text file")
    splits = list_splits(real)
    split = "train" if reidentify else next((one for one in ("test", "validation") if one in splits), "test")
    captions = list(
        dict.fromkeys(
            prompt_key(sample.caption) for sample in iter_samples(real, split) if sample.caption.strip()
        )
    )
    if not captions:
        raise InputError(f"{real}: no captions in the {split} split; prepare images with reports")
    limit, each = protocol.images, protocol.per_prompt
    if reidentify and protocol.reidentification:
        limit, each = protocol.reidentification.prompts, protocol.reidentification.images
    if limit is not None and len(captions) > limit:
        drawn = np.random.default_rng([seed, 59]).permutation(len(captions))[:limit]
        captions = [captions[i] for i in sorted(drawn)]
    FolderStorage(out.parent).write(out.name, ("\n".join(captions) + "\n").encode())
    print(f"{out}: {len(captions)} captions of the {split} split, {each} images of each:")
    print(f"medsd generate MODEL --prompts {out} --num-images {each * len(captions)} --out DIR")
    return captions
