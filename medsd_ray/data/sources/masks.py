"""Masks of images: label maps in files beside them, and boxes of findings that are drawn as masks."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from medsd_ray.addresses import path_of
from medsd_ray.data.identifying_values import identifying_value
from medsd_ray.data.sources.image_files import open_mask
from medsd_ray.data.sources.near_names import near_name
from medsd_ray.data.sources.source import BadSample
from medsd_ray.data.sources.table import Row, normal_name, read_table
from medsd_ray.errors import InputError

BOX_COLUMNS = ("image", "finding", "x", "y", "w", "h")
MOST_BEYOND = 0.01
"""Of an image's width or height, or a pixel where that is more: how far a box may reach beyond it, and is cut
off. Boxes that are drawn to the edge do by rounding; those that do by more were drawn on another image.
"""


def mask_name(text: str) -> str:
    """A column's or a finding's name as a mask's: lower case letters, digits, `_` and `-`, since it becomes a
    part of a file's name. Raises InputError where none is left.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    if not (name := re.sub(r"[^a-z0-9-]+", "_", plain).strip("_")[:64]):
        raise InputError(f"{text[:40]!r} has no letter that could name a mask; rename it")
    return name


@dataclass(frozen=True)
class MaskFile:
    """A file that a row names as a mask, before it is read."""

    size: int
    """Bytes."""
    read: Callable[[int, int, int], np.ndarray]
    """The mask, uint8 (height, width), of the image of this number of so many, which its EXIF turns so;
    raises BadSample.
    """


def mask_file(path: Path) -> MaskFile:
    """A mask in an image file."""
    return MaskFile(path.stat().st_size, partial(open_mask, path))


@dataclass(frozen=True)
class Box:
    """Where a finding is, in pixels of the image as it is stored, from its upper left corner."""

    x: float
    y: float
    w: float
    h: float
    where: str
    """Its row, for messages, such as `boxes.csv line 2`."""

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """x, y, w and h."""
        return self.x, self.y, self.w, self.h


@dataclass
class Boxes:
    """The boxes of a set, by image."""

    name: str
    """For messages: the file that they come from."""
    of_image: dict[str, dict[str, list[Box]]] = field(default_factory=dict)
    """The image's normal name -> mask's name -> boxes."""
    asked: bool = False
    """Whether the user named them, so that they are to be of some image at least."""
    findings: dict[str, str] = field(default_factory=dict)
    """Mask's name -> the finding as the table writes it."""

    def check(self, images: Collection[str]) -> None:
        """Raises InputError where the user named boxes, and none is of one of the images, by normal names."""
        if self.asked and not self.of_image.keys() & images:
            named = next(iter(self.of_image), None)
            such = f", such as {named!r}," if named else ""
            raise InputError(
                f"--boxes {self.name}: none of its {len(self.of_image)} images{such} is one that the table "
                "of images names; write their names as that does, or leave out --boxes"
            )

    def add(self, image: str, finding: str, box: Box) -> None:
        """Adds a box. Raises InputError where the finding cannot name a mask, or another one's mask has its
        name.
        """
        name = mask_name(finding)
        if (other := self.findings.setdefault(name, finding)) != finding:
            raise InputError(
                f"the findings {other!r} and {finding!r} would both be the mask {name!r}; write them alike, "
                "or rename one"
            )
        self.of_image.setdefault(normal_name(image), {}).setdefault(name, []).append(box)


def read_boxes(source: str | None) -> Boxes | None:
    """The boxes of a table with the columns of BOX_COLUMNS; None where no table is given.

    Raises:
        InputError: It is no such table, a finding looks like a name or number of a person, or a box has no
            area.
    """
    if source is None:
        return None
    path = path_of(source)
    if not path.is_file():
        raise InputError(f"--boxes {source}: there is no such table; mend it")
    table = read_table(path, path.parent)
    if absent := [name for name in BOX_COLUMNS if name not in table.columns]:
        near = {name: near_name(name, table.columns) for name in absent}
        said = ", ".join(f"{name} (maybe {near[name]!r})" if near[name] else name for name in absent)
        there = ", ".join(table.columns) or "none"
        raise InputError(f"--boxes {path}: no column {said} among {there}; name them so in the table")
    boxes = Boxes(table.name, asked=True)
    for row in table.rows:
        if isinstance(row, str):
            raise InputError(f"--boxes {path}: {row}")
        if sign := identifying_value(row.values["finding"]):
            raise InputError(f"--boxes {path}: {row.where}: its finding looks like {sign}; name a finding")
        try:
            boxes.add(row.values["image"], row.values["finding"], _box(row))
        except InputError as error:
            raise InputError(f"--boxes {path}: {row.where}: {error}") from error
    return boxes


def _box(row: Row) -> Box:
    try:
        x, y, w, h = (float(row.values[name]) for name in ("x", "y", "w", "h"))
    except ValueError:
        x = y = w = h = 0.0
    if not (math.isfinite(x + y + w + h) and w > 0 and h > 0):
        raise InputError("x, y, w and h are pixels, w and h above 0; mend it")
    return Box(x, y, w, h, row.where)


def drawn(boxes: Sequence[Box], height: int, width: int) -> np.ndarray:
    """The boxes as a mask, uint8 (height, width), 255 inside; each has a pixel at least. Raises BadSample
    where one lies outside, or reaches out by more than MOST_BEYOND.
    """
    mask = np.zeros((height, width), np.uint8)
    for box in boxes:
        try:
            mask[_within(box.y, box.h, height), _within(box.x, box.w, width)] = 255
        except BadSample as error:
            raise BadSample(
                f"its box, {box.where}, {error} of its {width}x{height} pixels; give boxes in pixels of "
                "these files, x and y of the upper left corner"
            ) from error
    return mask


def _within(start: float, length: float, side: int) -> slice:
    """The pixels of a side that a box takes. Raises BadSample where it lies outside of them."""
    end = start + length
    if start >= side or end <= 0:
        raise BadSample("lies outside")
    if (beyond := max(-start, end - side)) > max(1, MOST_BEYOND * side):
        raise BadSample(f"reaches {math.ceil(beyond)} pixels out")
    first = min(max(0, round(start)), side - 1)
    return slice(first, max(first + 1, round(end)))
