"""What images are made by beside their prompt: masks, numbers and categories that the shards hold."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from medsd_ray.errors import InputError
from medsd_ray.spec.components import Method
from medsd_ray.spec.rules import Rule, SpecModel
from medsd_ray.spec.types import Positive

CONDITIONS = "conditions"
"""What takes the conditions in: a run's section, a checkpoint's part, a folder of a pipeline."""
PROMPT = "prompt"
"""A condition that every model has, and so no other's name."""
MOST_CONDITIONS = 16
STEM_CHANNELS = 4
"""Channels of the latents' size that a mask becomes, beside one that says that the mask is there."""

MOST_VALUES, LONGEST_VALUE = 256, 256
"""Of a category, and characters of one of them."""

Label = Annotated[str, Field(min_length=1, max_length=LONGEST_VALUE)]


class Condition(SpecModel):
    """One condition, of which a sample may have no value: what its shards do not know is null."""

    kind: Literal["mask", "number", "category"] = Field(
        description="mask: what is above 0 in a mask; number: a label's value in a range; category: a "
        "label's value among several"
    )
    field: Label | None = Field(
        default=None,
        description="the shards' label or mask that it takes; where absent, the one that has its own name",
    )
    range: tuple[float, float] | None = Field(
        default=None, description="lowest and highest value of a number; no sample may have one beyond"
    )
    values: Annotated[list[Label], Field(max_length=MOST_VALUES)] = Field(
        default=[],
        description="what a category can be; another is as one that is not known; where empty, all values "
        "of the training samples, in alphabetical order",
    )

    rules = (
        Rule(
            "has(self.range) == (self.kind == 'number')",
            "range: [lowest, highest] is needed by a number, and by no other condition",
            lambda condition: (condition.range is not None) == (condition.kind == "number"),
        ),
        Rule(
            "!has(self.range) || self.range[0] < self.range[1]",
            "range: the lowest value comes first, and is below the highest",
            lambda condition: condition.range is None or condition.range[0] < condition.range[1],
        ),
        Rule(
            "size(self.values) == 0 || self.kind == 'category'",
            "values are of a category alone",
            lambda condition: not condition.values or condition.kind == "category",
        ),
    )


def _name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name):
        raise ValueError(f"{name[:64]!r} is no name of a condition: a-z, 0-9, _ and -, a letter first")
    if name == PROMPT:
        raise ValueError(f"every model has the condition {PROMPT!r}; choose another name, and field: {name}")
    return name


# The API server has no word for a mapping's keys: the operator checks them.
ConditionName = Annotated[str, AfterValidator(_name)]
Conditions = Annotated[dict[ConditionName, Condition], Field(max_length=MOST_CONDITIONS)]


class ConditionSettings(SpecModel):
    """The conditions of a model: those of its run, with all that the run's data decided. In its checkpoints
    and its exported folder.
    """

    method: Literal[Method.concat] = Method.concat
    """How masks go in: as channels beside the noisy latents."""
    conditions: Conditions
    """Each names its field, and a category its values."""
    image_size: tuple[Positive, Positive]
    """Height and width of the masks, in pixels."""
    latent_factor: Positive
    """Pixels of an image's side for each value of its latent's side, a power of 2."""

    def of_kind(self, *kinds: str) -> dict[str, Condition]:
        """The conditions of these kinds, in the order of their names."""
        return {name: one for name, one in sorted(self.conditions.items()) if one.kind in kinds}

    @property
    def mask_channels(self) -> int:
        """Channels beside the noisy latents."""
        return (STEM_CHANNELS + 1) * len(self.of_kind("mask"))


def number_of(condition: Condition, said: object) -> float:
    """A number as a label or a command line says it. Raises ValueError for what is none, or out of its
    range.
    """
    assert condition.range
    lowest, highest = condition.range
    try:
        number = float(str(said))
    except ValueError as error:
        raise ValueError(f"{str(said)[:40]!r} is no number") from error
    if not (math.isfinite(number) and lowest <= number <= highest):
        raise ValueError(f"{str(said)[:40]} is not in its range, {lowest:g} to {highest:g}")
    return number


def parse_settings(values: object, where: str) -> ConditionSettings:
    """The conditions that a checkpoint or a folder names. Raises InputError where they are none that this
    version knows.
    """
    try:
        return ConditionSettings.model_validate(values)
    except ValidationError as error:
        raise InputError(
            f"{where}: this version of medsd does not know its conditions; use the one that wrote it"
        ) from error
