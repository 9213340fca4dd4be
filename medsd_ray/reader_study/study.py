"""A reader study's folder: what the page serves, the key that tells what each image is, and the order of a
reader.

study.json      seed, size of the images in pixels, and their names in order of name: all that `serve` reads
images/ID.png   the images, alike in all but their pixels
key.json        what each image is; `serve` never opens it, so it may lie elsewhere until `report`
answers.sqlite  the answers
report/         report.json, report.html, answers.csv
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from medsd_ray.documents import json_object
from medsd_ray.errors import InputError
from medsd_ray.schemas import Count, Schema, first_fault

FORMAT = "medsd-reader-study/1"
STUDY, KEY, ANSWERS, IMAGES, REPORT = "study.json", "key.json", "answers.sqlite", "images", "report"
LONGEST_NAME = 64
_ID = re.compile(r"[0-9a-f]{16}")


class StudyFile(Schema):
    """What study.json says."""

    format: str
    seed: Count
    width: Annotated[int, Field(ge=1, le=2**16)]
    height: Annotated[int, Field(ge=1, le=2**16)]
    images: list[str]


class ImageKey(Schema):
    """What key.json says of one image."""

    group: Literal["real", "generated"]
    source: str
    text: str
    abnormal: bool | None


class KeyFile(Schema):
    """What key.json says."""

    format: str
    real: str
    generated: str
    label: str
    normal: str
    reference: str
    images: dict[str, ImageKey]


@dataclass(frozen=True)
class Study:
    """What the page may know."""

    folder: Path
    seed: int
    width: int
    height: int
    images: tuple[str, ...]

    def image(self, name: str) -> bytes:
        """Raises KeyError for a name that is no image of this study."""
        if name not in self.images:
            raise KeyError(name)
        return (self.folder / IMAGES / f"{name}.png").read_bytes()


def open_study(folder: Path) -> Study:
    """Raises InputError where the folder holds no study."""
    path = folder / STUDY
    try:
        value = json_object(path.read_bytes())
        if value["format"] != FORMAT:
            raise InputError(
                f"{path}: format {value['format']!r} is not {FORMAT}; make the study anew with this medsd"
            )
        if fault := first_fault(StudyFile, value):
            raise ValueError(fault)
        images = tuple(value["images"])
        if len(set(images)) < len(images):
            raise ValueError("an image is named twice")
        study = Study(folder, value["seed"], value["width"], value["height"], images)
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: no {STUDY} here; give a folder that `medsd reader-study new` made"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not what `medsd reader-study new` writes ({type(error).__name__}: {error})"
        ) from error
    absent = [
        name for name in images if not _ID.fullmatch(name) or not (folder / IMAGES / f"{name}.png").is_file()
    ]
    if absent or not images:
        raise InputError(f"{folder}: {len(absent) or 'all'} of its images are absent; copy the study whole")
    return study


def reader_name(given: str) -> str:
    """The name under which a reader's answers are kept: one for every spelling of case and spaces.

    Raises ValueError for an empty one, a longer one than 64 characters, or one with control characters.
    """
    name = " ".join(unicodedata.normalize("NFC", given).split()).casefold()
    if not name or len(name) > LONGEST_NAME:
        raise ValueError(f"a name has 1 to {LONGEST_NAME} characters")
    if any(unicodedata.category(c).startswith("C") for c in name):
        raise ValueError("a name has letters, digits and signs alone")
    return name


def order(study: Study, reader: str) -> list[str]:
    """The images in this reader's order, a function of (study's seed, reader). Names are random, so it tells
    nothing.
    """
    return sorted(
        study.images, key=lambda name: hashlib.blake2b(f"{study.seed}/{reader}/{name}".encode()).digest()
    )
