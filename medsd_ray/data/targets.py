"""What a task run learns of a sample beside its pixels: the class of a label, or a mask's classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from medsd_ray.data.index_schema import SampleNote
from medsd_ray.data.shard_png import read_mask, read_png
from medsd_ray.data.shards import mask_of
from medsd_ray.documents import json_object
from medsd_ray.schemas import first_fault

NO_CLASS = -1
"""The class of a sample that has none of those that a run learns."""


class Targets(Protocol):
    """What is read of each sample, from those of its members in the shard that it asks for."""

    def wants(self, extension: str) -> bool:
        """Whether a member with this extension, such as `json`, is read."""
        ...

    def row(self, members: Mapping[str, bytes]) -> dict[str, Tensor]:
        """Tensors by name, from extension -> bytes. Raises ValueError where a member is missing or
        damaged.
        """
        ...


@dataclass(frozen=True)
class LabelTarget:
    """The class of a sample by one of its labels: `label`, int64, the place of its value in `classes`, or
    NO_CLASS.
    """

    label: str
    classes: tuple[str, ...]

    def wants(self, extension: str) -> bool:
        return extension == "json"

    def row(self, members: Mapping[str, bytes]) -> dict[str, Tensor]:
        if "json" not in members:
            raise ValueError("its json is missing")
        note = json_object(members["json"])
        if fault := first_fault(SampleNote, note):
            raise ValueError(f"its json: {fault}")
        return {"label": torch.tensor(self.number_of(note["labels"]))}

    def number_of(self, labels: Mapping[str, object]) -> int:
        """The place in `classes` of a sample's value of the label, or NO_CLASS."""
        value = labels.get(self.label)
        return self.classes.index(text) if (text := str(value)) in self.classes else NO_CLASS


@dataclass(frozen=True)
class MaskTarget:
    """The class of each pixel by one of a sample's masks: `mask`, uint8 (height, width), 0 the background."""

    mask: str
    classes: int
    """Beside the background. Of one class all values above 0 are pixels."""
    missing_is_background: bool

    def wants(self, extension: str) -> bool:
        return extension == "png" or mask_of(extension) == self.mask

    def row(self, members: Mapping[str, bytes]) -> dict[str, Tensor]:
        for extension, data in members.items():
            if mask_of(extension) == self.mask:
                return {"mask": torch.from_numpy(self.numbers_of(read_mask(data)))}
        if not self.missing_is_background:
            raise ValueError(f"it has no mask {self.mask!r}")
        height, width = read_png(members["png"]).shape[:2]
        return {"mask": torch.zeros(height, width, dtype=torch.uint8)}

    def numbers_of(self, mask: np.ndarray) -> np.ndarray:
        """The class of each pixel, uint8, of a mask as shards hold it. Raises ValueError for a value beyond
        the classes.
        """
        if self.classes == 1:
            return (mask > 0).astype(np.uint8)
        if (highest := int(mask.max())) > self.classes:
            raise ValueError(f"its mask {self.mask!r} has the value {highest}, of {self.classes} classes")
        return mask
