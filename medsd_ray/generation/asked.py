"""What the images of an output are asked to show: prompts, the values of conditions, and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medsd_ray.addresses import shown
from medsd_ray.errors import InputError
from medsd_ray.generation.mask_sets import MaskSet, checksum, read_mask_sets
from medsd_ray.generation.wishes import Values, Wish, unknown_condition, values_of
from medsd_ray.models.facts import conditions_of
from medsd_ray.spec.conditions import ConditionSettings
from medsd_ray.spec.images import Guidance


@dataclass(frozen=True)
class Asked:
    """What the images of an output are asked to show: image i is of wish i and of mask set i, each modulo
    their number.
    """

    prompts: list[str]
    values: list[Values]
    """One for each prompt."""
    guidance: Guidance = field(default_factory=Guidance)
    settings: ConditionSettings | None = None
    """The model's conditions; None where it has none."""
    sets: list[MaskSet] = field(default_factory=list)
    masks_from: str = ""
    """Where the mask sets were read from."""

    def settings_of_plan(self) -> dict[str, Any]:
        """What a plan says of the conditions of all images."""
        if not self.settings:
            return {}
        masks = {"from": self.masks_from, "sets": len(self.sets), "sha256": checksum(self.sets)}
        return {
            "guidance": self.guidance.kind,
            "weights": dict(self.guidance.weights),
            "masks": masks if self.sets else None,
        }

    def of_image(self, index: int) -> dict[str, Any]:
        """What a plan says of the conditions of one image."""
        if not self.settings:
            return {}
        found: dict[str, Any] = {"conditions": self.values[index % len(self.values)]}
        return found | ({"mask_set": self._set(index).key} if self.sets else {})

    def _set(self, index: int) -> MaskSet:
        return self.sets[index % len(self.sets)]

    def masks_of(self, image: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The masks of an image of the plan, by the condition's name."""
        return self._set(image["index"]).masks if self.sets else {}

    def given(self, image: Mapping[str, Any]) -> dict[str, Any]:
        """All conditions of an image of the plan, by name."""
        return {**image.get("conditions", {}), **self.masks_of(image)}

    def mask_files(self, image: Mapping[str, Any]) -> dict[str, str]:
        """Condition -> the file that keeps its mask beside an image of the plan."""
        stem = image["file"].removesuffix(".png")
        return {name: f"{stem}.mask.{self._field(name)}.png" for name in self.masks_of(image)}

    def columns(self) -> list[str]:
        """Columns of the output's table: the fields of conditions that some image has."""
        names = {name for values in self.values for name in values}
        return sorted(map(self._field, names | {name for one in self.sets for name in one.masks}))

    def cells(self, image: Mapping[str, Any]) -> dict[str, Any]:
        """Column -> what an image of the plan has there."""
        own = {**image.get("conditions", {}), **self.mask_files(image)}
        return {self._field(name): value for name, value in own.items()}

    def _field(self, name: str) -> str:
        assert self.settings
        return self.settings.conditions[name].field or name


def what_is_asked(
    model: str, wishes: Sequence[Wish], guidance: Guidance, masks: str | None, num_images: int
) -> Asked:
    """What a model's images are asked to show, checked.

    Args:
        model: The model's address.
        wishes: Prompts and values of conditions.
        guidance: How conditions guide.
        masks: As `read_mask_sets` takes it.
        num_images: How many images there are.

    Raises:
        InputError: The model does not know a condition, a value or a mask.
    """
    settings = conditions_of(model)
    values = [values_of(wish, settings, model) for wish in wishes]
    prompts = [wish.prompt for wish in wishes]
    if settings is None:
        if masks or guidance != Guidance():
            option = "--masks" if masks else "--guidance"
            raise InputError(f"{model} knows no conditions; leave {option} out")
        return Asked(prompts, values)
    for name in guidance.weights:
        if name not in settings.conditions:
            raise unknown_condition("--weight", name, settings, model)
    sets = read_mask_sets(masks, settings, num_images) if masks else []
    return Asked(prompts, values, guidance, settings, sets, shown(masks or ""))
