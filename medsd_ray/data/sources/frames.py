"""Which images to take of a file that holds several: the frames of a DICOM file, the pages of a TIFF."""

from __future__ import annotations

from typing import Literal

from medsd_ray.data.sources.source import BadSample

Frames = Literal["first", "middle", "all"]
MOST_FRAMES = 10_000
"""In one file: no clip or volume has more, and each becomes a sample."""


def chosen(count: int, frames: Frames | None, unit: str = "frames") -> range:
    """The numbers, from 0, of the frames to take of `count`. Raises BadSample where there are several and
    nothing says which.
    """
    if count > MOST_FRAMES:
        raise BadSample(f"holds {count} {unit}, more than the {MOST_FRAMES:,} that are read; split the file")
    if count <= 1 or frames == "first":
        return range(1)
    if frames is None:
        raise BadSample(
            f"holds {count} {unit}; say which to take with prepare's --frames first, middle or all, or save "
            "each as a file of its own"
        )
    return range(count) if frames == "all" else range(count // 2, count // 2 + 1)


def named(name: str, frame: int, count: int) -> str:
    """A frame's own name: the file's where it holds one alone."""
    return name if count <= 1 else f"{name}#{frame + 1}"
