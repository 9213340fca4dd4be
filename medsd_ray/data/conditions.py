"""The conditions of a sample as tensors: what its shards, or who asks for an image, say of each.

A condition NAME is two tensors: `present.NAME`, bool (), false where it is null, and `condition.NAME`, which
means nothing then: of a mask uint8 (height, width), 1 inside; of a number float32 () from 0 to 1 over its
range; of a category int64 (), the place of its value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medsd_ray.spec.conditions import Condition, ConditionSettings, number_of

VALUE, PRESENT = "condition.", "present."

Given = str | int | float | bool | np.ndarray
"""What is said of a condition: a label's value, or a mask (height, width) that is above 0 inside."""


def condition_tensors(settings: ConditionSettings, given: Mapping[str, Given]) -> dict[str, Tensor]:
    """The tensors of one sample's conditions; what is not given is null, as is a category's value that the
    settings do not have. Raises ValueError where one is not what its condition takes.
    """
    tensors = {}
    for name, condition in settings.conditions.items():
        said = given.get(name)
        value = None
        if said is not None and not (isinstance(said, str) and not said.strip()):
            try:
                value = _value(condition, said, settings.image_size)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        tensors[PRESENT + name] = torch.tensor(value is not None)
        tensors[VALUE + name] = _nothing(condition, settings.image_size) if value is None else value
    return tensors


def _value(condition: Condition, said: Given, size: tuple[int, int]) -> Tensor | None:
    if condition.kind == "number":
        assert condition.range
        lowest, highest = condition.range
        return torch.tensor((number_of(condition, said) - lowest) / (highest - lowest), dtype=torch.float32)
    if condition.kind == "category":
        known = str(said) in condition.values
        return torch.tensor(condition.values.index(str(said))) if known else None
    mask = np.asarray(said)
    if mask.shape != tuple(size):
        raise ValueError(
            f"a mask of {'x'.join(map(str, mask.shape))} pixels where images are {size[0]}x{size[1]}"
        )
    return torch.from_numpy((mask > 0).astype(np.uint8))


def _nothing(condition: Condition, size: tuple[int, int]) -> Tensor:
    if condition.kind == "mask":
        return torch.zeros(size, dtype=torch.uint8)
    return torch.tensor(0.0) if condition.kind == "number" else torch.tensor(0)


@dataclass(frozen=True)
class ConditionTargets:
    """What a run with conditions reads of each sample's labels and masks."""

    settings: ConditionSettings

    @property
    def masks(self) -> frozenset[str]:
        """The masks that are read, by the shards' names."""
        return frozenset(one.field or name for name, one in self.settings.of_kind("mask").items())

    def row(self, labels: Mapping[str, Given], masks: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """The tensors of one sample's conditions. Raises ValueError as `condition_tensors` does."""
        given: dict[str, Given] = {}
        for name, condition in self.settings.conditions.items():
            known = masks if condition.kind == "mask" else labels
            if (field := condition.field or name) in known:
                given[name] = known[field]
        return condition_tensors(self.settings, given)
