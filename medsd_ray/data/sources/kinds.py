"""The kinds of sources: where each is read, and which options it takes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import Source
from medsd_ray.errors import InputError

OPTIONS = {
    "images": "--images",
    "reports": "--reports",
    "views": "--view",
    "uncertain": "--uncertain",
    "image_column": "--image-column",
    "caption_column": "--caption-column",
    "caption": "--caption",
    "patient_column": "--patient-column",
    "patient_regex": "--patient-regex",
    "yes_split": "--yes-split",
    "label_columns": "--label-column",
    "yes_labels": "--yes-label",
    "mask_columns": "--mask-column",
    "boxes": "--boxes",
    "domain_column": "--domain-column",
    "frames": "--frames",
    "sites": "--site",
    "visits": "--visits",
}
"""Field of a request -> the option that sets it, of those that not every kind takes."""
SET_OPTIONS = frozenset({"views", "caption_column", "caption", "label_columns", "yes_labels"})
"""What published sets of X-rays take: they say themselves which image is whose."""
TABLE_OPTIONS = frozenset(OPTIONS) - {"images", "reports", "views", "uncertain", "sites", "visits"}
"""What every other kind takes that reads rows of columns (`rows.py`)."""


@dataclass(frozen=True)
class Kind:
    """One kind of source."""

    module: str
    """In this folder: its `scan` makes a Source of a SourceRequest."""
    takes: frozenset[str]
    """The fields of OPTIONS that it takes."""


KINDS = {
    "folder": Kind("folder", TABLE_OPTIONS | {"images"}),
    "dicom": Kind("dicom", TABLE_OPTIONS),
    "openi": Kind("openi", frozenset({"images", "caption", "label_columns", "yes_labels"})),
    "mimic-cxr": Kind("mimic_cxr", SET_OPTIONS | {"reports", "uncertain"}),
    "chexpert": Kind("chexpert", SET_OPTIONS | {"reports", "uncertain"}),
    "nih": Kind("nih", SET_OPTIONS),
    "padchest": Kind("padchest", SET_OPTIONS),
    "hf": Kind("hugging_face", TABLE_OPTIONS),
    "phantom": Kind("phantom", frozenset({"sites", "visits"})),
}


def open_source(request: SourceRequest) -> Source:
    """The records of what is asked for.

    Raises:
        InputError: There is no such kind, the kind does not take an option, or the source cannot be used.
    """
    if request.kind not in KINDS:
        raise InputError(f"--kind {request.kind!r}: choose {', '.join(KINDS)}")
    kind, default = KINDS[request.kind], SourceRequest("")
    for field, option in OPTIONS.items():
        if field not in kind.takes and getattr(request, field) != getattr(default, field):
            others = " or ".join(name for name, other in KINDS.items() if field in other.takes)
            raise InputError(f"{option} is for --kind {others}; --kind {request.kind} does not take it")
    # By name, so that a source's libraries are loaded where it is read alone.
    return import_module(f"{__package__}.{kind.module}").scan(request)
