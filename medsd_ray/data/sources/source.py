"""What a source hands to `prepare`: first what is known without pixels, then, sample by sample, the
content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from medsd_ray.errors import OneLineError

LONGEST_TEXT = 100_000
"""Characters of a report: fifty pages, and what is read of it in a fraction of a second."""


class BadSample(OneLineError):
    """One sample cannot be used. The text says why and how to mend it; it must hold nothing of the
    patient.
    """


@dataclass(frozen=True, slots=True)
class Content:
    """A sample without identity."""

    image: np.ndarray | None
    """uint8, (height, width) or (height, width, 3), of any size; None for text alone."""
    caption: str
    """The report, or a part of it."""
    labels: Mapping[str, str | int | float | bool]
    """Name -> value, such as `finding`."""
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Name -> uint8, (height, width) as the image's: a label map, 0 the background, or 0 and 255."""
    warnings: tuple[str, ...] = ()
    """What the user should look at before the sample is shared."""
    oddities: tuple[str, ...] = ()
    """What was odd about the file, so that the image may not be what it should: said with the file's name."""


@dataclass(frozen=True, slots=True)
class Record:
    """A sample's identity in its source, which never reaches a shard, and how to read its content."""

    name: str
    """Tells it from all others in the source."""
    patient: str
    """Tells the patient from all others in the source."""
    where: str
    """File and line, for messages."""
    stamp: str
    """Changes when the sample does."""
    read: Callable[[], Content]
    """Reads the content; raises BadSample where it cannot be used."""
    split: str | None = None
    """The split of shards that the set was published in; None where it tells none."""
    domain: str | None = None
    """Where it comes from, such as a hospital; None where that is not known. It stands in the shards."""


@dataclass
class Source:
    """All that a source holds, before any pixel is read."""

    kind: str
    """`image` or `text`."""
    records: list[Record] = field(default_factory=list)
    """The samples that can be used, as far as is known before they are read."""
    problems: list[str] = field(default_factory=list)
    """A line for each sample that cannot be used."""
    notes: list[str] = field(default_factory=list)
    """What the user should know; nothing is wrong."""
    split_by: str | None = None
    """The column or keyword of a tag that names the patients; None where none does."""
    chosen: dict[str, str] = field(default_factory=dict)
    """What its kind chose by itself, such as the captions' template: the record says it."""
    public: bool = False
    """Whether names and patients identify no one: they are kept as they are."""


def stamp(*parts: object) -> str:
    """A digest of what a source knows of a sample, to tell a changed source from the same one."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
