"""Which images play which part in an evaluation, and why one of the parts may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medsd_ray.errors import InputError
from medsd_ray.evaluation.estimates import Missing
from medsd_ray.evaluation.inputs import ImageSet, Inputs, concatenate

NO_BASE = Missing("no images of the model before adaptation were given (--base)")
NO_TRAIN = Missing("the real images have no training split")


@dataclass(frozen=True)
class Sets:
    """The parts that the images play.

    Attributes:
        train: The real training images, or None where the real images have no splits.
        validation: The real validation images, or None.
        held_out: The real images that every distance refers to and every classifier is judged by.
        generated: The images under evaluation.
        base: Images of the model before adaptation, or None.
        reference: What `held_out` is, in words.
    """

    train: ImageSet | None
    validation: ImageSet | None
    held_out: ImageSet
    generated: ImageSet
    base: ImageSet | None
    reference: str


def assign(inputs: Inputs, held_out: Sequence[str]) -> Sets:
    """Which real images train, choose and judge. Raises InputError where no split named in `held_out` has
    images.
    """
    real = inputs.real
    if set(real) == {"all"}:
        reference = f"all {len(real['all'])} real images (a plain folder: no split, no labels)"
        return Sets(None, None, real["all"], inputs.generated, inputs.base, reference)
    names = [name for name in held_out if name in real]
    note = ""
    if not names and "validation" in real:
        names, note = ["validation"], " (there is no test split; it also chose the classifier's epoch)"
    if not names:
        raise InputError(
            f"the real shards have no {' or '.join(held_out)} split to judge by; prepare with a test split"
        )
    judge = concatenate([real[name] for name in names])
    reference = (
        f"the {' and '.join(names)} split{note}: {len(judge)} real images of {judge.patients} patients"
    )
    return Sets(real.get("train"), real.get("validation"), judge, inputs.generated, inputs.base, reference)
