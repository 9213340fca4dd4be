"""Where the pixels of an image come to lie when `pixels.resize` makes a square of it, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medsd_ray.data.sources.pixels import Fit


@dataclass(frozen=True)
class Axis:
    """One side of the square: a pixel's centre x + 1/2 comes to lie at `offset` + (x + 1/2) * `scale`."""

    offset: float
    scale: float

    def places(self, count: int, size: int) -> np.ndarray:
        """Where the centres of `count` pixels lie on a side of `size`, -1 at its beginning and 1 at its end
        (torch's grid_sample); beyond for what was cropped.
        """
        return 2 * (self.offset + (np.arange(count) + 0.5) * self.scale) / size - 1


def placement(height: int, width: int, size: int, fit: Fit) -> tuple[Axis, Axis]:
    """(rows, columns) of an image that `resize` brings to `size` x `size` as Pillow's ImageOps.fit and
    ImageOps.pad do.
    """
    if fit == "crop":
        side = min(height, width)
        scale = size / side
        return Axis(-(height - side) / 2 * scale, scale), Axis(-(width - side) / 2 * scale, scale)
    longer = max(height, width)
    rows, columns = (round(side / longer * size) if side < longer else size for side in (height, width))
    return (
        Axis(round((size - rows) * 0.5), rows / height),
        Axis(round((size - columns) * 0.5), columns / width),
    )
