"""The scanners of four sites, which see the same anatomy: a domain shift of phantoms, whose truth is known.

Site A shows the phantom as it is drawn. B, C and D show the same anatomy with other contrast, noise, blur,
resolution, markers and collimation, from mild to strong. Brightness runs from 0 to 1, lengths are shares of
the image's side, so that a site looks alike at every size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

Site = Literal["A", "B", "C", "D"]

_LETTERS = {
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
}
"""Markers of the patient's side, of 7 by 5 points."""
_POINT = 1 / 64
"""A point of a marker."""


@dataclass(frozen=True)
class Scanner:
    """What one site does to an image. The defaults change nothing."""

    gamma: float = 1.0
    """Of the display curve: below 1 brightens what is dark."""
    contrast: float = 1.0
    """The share of the range of brightness that is used."""
    floor: float = 0.0
    """The brightness of what is black."""
    noise: float = 0.0
    """The standard deviation of the detector's noise, before the display curve."""
    blur: float = 0.0
    """The standard deviation of the focal spot's blur."""
    resolution: float = 1.0
    """The detector's pixels a side, of those of the image."""
    collimation: float = 0.0
    """The widest black border; each side's own is a share of it."""
    marker: Literal["L", "R"] | None = None
    """The letter in the upper corner of that side of the patient, whose left is on the viewer's right."""
    plate: bool = False
    """Whether the letter is cut out of a bright plate."""


SCANNERS: dict[Site, Scanner] = {
    "A": Scanner(),
    "B": Scanner(gamma=0.9, contrast=0.92, floor=0.03, noise=0.015, blur=0.004, marker="L"),
    "C": Scanner(
        gamma=1.35, contrast=0.85, noise=0.04, blur=0.006, resolution=0.7, collimation=0.03, marker="R"
    ),
    "D": Scanner(
        gamma=0.6,
        contrast=0.75,
        floor=0.2,
        noise=0.05,
        blur=0.01,
        resolution=0.55,
        collimation=0.06,
        marker="L",
        plate=True,
    ),
}


def site_of(index: int, sites: Sequence[Site], seed: int) -> Site:
    """The site of a phantom: of each len(sites) in a row, every site has one, in an order keyed by the
    seed.
    """
    row, place = divmod(index, len(sites))
    return sites[int(np.random.default_rng([5, seed, row]).permutation(len(sites))[place])]


def scanned(image: np.ndarray, site: Site, rng: np.random.Generator) -> np.ndarray:
    """The image as a site's scanner shows it.

    Args:
        image: uint8, (size, size), as it is drawn.
        site: Whose scanner.
        rng: Of the noise and the collimation.

    Returns:
        uint8, (size, size), its anatomy where it was.
    """
    scanner = SCANNERS[site]
    if scanner == Scanner():
        return image
    size = len(image)
    seen = gaussian_filter(image / 255, scanner.blur * size, mode="nearest")
    seen = _detected(seen, max(1, round(scanner.resolution * size)), scanner.noise, rng)
    borders = [round(scanner.collimation * rng.uniform(0.3, 1) * size) for _ in range(4)]
    if scanner.marker:
        _stamp(seen, scanner.marker, scanner.plate, borders)
    shown = scanner.floor + scanner.contrast * (1 - scanner.floor) * np.clip(seen, 0, 1) ** scanner.gamma
    top, bottom, left, right = borders
    inside = np.zeros_like(shown)
    inside[top : size - bottom, left : size - right] = 1
    return (np.clip(shown * inside, 0, 1) * 255 + 0.5).astype(np.uint8)


def _detected(seen: np.ndarray, pixels: int, noise: float, rng: np.random.Generator) -> np.ndarray:
    """What a detector of so many pixels a side sees, with its noise, in the image's own pixels."""
    coarse = np.asarray(
        Image.fromarray(seen.astype(np.float32)).resize((pixels, pixels), Image.Resampling.BOX)
    )
    noisy = coarse + noise * rng.standard_normal(coarse.shape).astype(np.float32)
    return np.array(Image.fromarray(noisy).resize(seen.shape, Image.Resampling.BICUBIC), dtype=float)


def _stamp(seen: np.ndarray, letter: str, plate: bool, borders: Sequence[int]) -> None:
    """Lays a marker of lead, which is bright, over the upper corner of its side, inside the borders."""
    size = len(seen)
    point = max(1, round(_POINT * size))
    points = np.array([[float(point) for point in row] for row in _LETTERS[letter]])
    marker = np.kron(np.pad(1 - points, 1, constant_values=1) if plate else points, np.ones((point, point)))
    height, width = marker.shape
    top, _, left, right = (border + 2 * point for border in borders)
    across = left if letter == "R" else size - right - width
    corner = seen[top : top + height, across : across + width]
    corner[:] = np.maximum(corner, 0.95 * marker[: len(corner), : corner.shape[1]])
