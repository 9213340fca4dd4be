"""What a source hands to `prepare`: first what is known without pixels, then, sample by sample, the content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np


class BadSample(Exception):
    """One sample cannot be used. The text says why and how to mend it; it must hold nothing of the patient."""


@dataclass(frozen=True, slots=True)
class Content:
    """A sample without identity. `image` is uint8 (height, width) or (height, width, 3), of any size; None
    for text alone.
    """

    image: np.ndarray | None
    caption: str
    labels: Mapping[str, str | int | float | bool]
    mask: np.ndarray | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """A sample's identity in its source, which never reaches a shard, and how to read its content."""

    name: str  # tells it from all others in the source
    patient: str
    where: str  # for messages: file and line
    stamp: str  # changes when the sample does
    read: Callable[[], Content]  # raises BadSample


@dataclass
class Source:
    kind: str  # "image" or "text"
    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # a line for each sample that cannot be used
    notes: list[str] = field(default_factory=list)  # what the user should know; nothing is wrong
    public: bool = False  # names and patients identify no one: they are kept as they are


def stamp(*parts: object) -> str:
    """A digest of what a source knows of a sample, to tell a changed source from the same one."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
