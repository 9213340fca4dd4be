"""Chest-like drawings whose truth is known: two lungs, a heart, ribs, noise, and an effusion with its mask or
none.

`phantom_samples` draws the data set that tests and demos adapt a model to: one X-ray-like style, with
effusions. Coordinates run from -1 to 1, x to the viewer's right and y down; as on a radiograph the
patient's left lung is on the viewer's right. A shape is a soft mask in [0, 1], so that edges are smooth at
every size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.ndimage import gaussian_filter

from medsd_ray.data.shards import Sample
from medsd_ray.data.sources.phantom_sites import SCANNERS, Site, scanned, site_of
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import Content, Record, Source
from medsd_ray.errors import InputError

SIDES = ("left", "right", "bilateral")
EXTENTS = ("small", "large")
EFFUSION_SHARE = 0.5
VISITS = (1, 2)
MOST = 1_000_000
"""Phantoms in one data set."""


def scan(request: SourceRequest) -> Source:
    """The first phantoms of a seed as a source, as many as SOURCE says; they are drawn when they are read.
    With sites, each is seen by the scanner of one of them; with two visits, twice, as `phantom_sample` says.

    Raises:
        InputError: SOURCE is no number from 1 to MOST, in decimal digits, there is no such site, or another
            number of visits.
    """
    source, seed, size, sites = request.source, request.seed, request.size, _sites(request.sites)
    if not source.isdecimal() or len(source) > len(str(MOST)) or not 0 < int(source) <= MOST:
        raise InputError(
            f"SOURCE {source[:40]!r}: for --kind phantom give how many to draw, such as 2000; at most "
            f"{MOST:,}"
        )

    if request.visits not in (None, *VISITS):
        raise InputError(f"--visits {request.visits}: a phantom is seen once or twice; give 1 or 2")

    def record(index: int, visit: int | None) -> Record:
        patient, site = f"phantom-{seed}-{index:07d}", site_of(index, sites, seed) if sites else None
        name = f"{patient}-{visit}" if visit else patient
        return Record(name, patient, name, "", partial(_read, seed, index, size, site, visit), domain=site)

    visits = VISITS[: request.visits] if request.visits else (None,)
    return Source(
        "image", [record(index, visit) for index in range(int(source)) for visit in visits], public=True
    )


def _sites(asked: Sequence[str]) -> list[Site]:
    if unknown := sorted(set(asked) - SCANNERS.keys()):
        raise InputError(f"--site {unknown[0][:40]!r}: choose {', '.join(SCANNERS)}")
    return [site for site in SCANNERS if site in asked]


def _read(seed: int, index: int, size: int, site: Site | None, visit: int | None) -> Content:
    sample = phantom_sample(seed, index, size, site, visit)
    return Content(sample.image, sample.caption, sample.labels, sample.masks)


@dataclass(frozen=True)
class Anatomy:
    """The random geometry of one drawing, in image coordinates."""

    lung_width: float
    lung_height: float
    lung_gap: float
    lung_y: float
    heart_ratio: float  # heart width over chest width: the cardiothoracic ratio, enlarged from 0.5
    ribs: int
    rib_slope: float
    dome: tuple[float, float]  # y of the right and left diaphragm
    shoulder: float
    tilt: float
    shift: tuple[float, float]
    zoom: float

    @property
    def heart_enlarged(self) -> bool:
        return self.heart_ratio > 0.5


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    enlarged = rng.random() < 0.5
    dome = rng.uniform(0.48, 0.62)
    return Anatomy(
        lung_width=rng.uniform(0.30, 0.38),
        lung_height=rng.uniform(0.68, 0.85),
        lung_gap=rng.uniform(0.36, 0.44),
        lung_y=rng.uniform(-0.12, 0.0),
        heart_ratio=rng.uniform(0.55, 0.66) if enlarged else rng.uniform(0.36, 0.45),
        ribs=int(rng.integers(7, 10)),
        rib_slope=rng.uniform(0.15, 0.45),
        dome=(dome - rng.uniform(0.0, 0.08), dome),
        shoulder=rng.uniform(-0.75, -0.5),
        tilt=rng.normal(0, 0.04),
        shift=(rng.normal(0, 0.04), rng.normal(0, 0.04)),
        zoom=rng.uniform(0.92, 1.1),
    )


def _soft(distance: np.ndarray, width: float = 0.03) -> np.ndarray:
    """A mask that is 1 where the signed distance is negative (inside), falling to 0 over about `width`."""
    return 1 / (1 + np.exp(np.clip(distance / width * 4, -40, 40)))


def _ellipse(x, y, cx, cy, rx, ry, power: float = 2.0) -> np.ndarray:
    """Roughly signed distance to a (super)ellipse: negative inside."""
    radius = (np.abs((x - cx) / rx) ** power + np.abs((y - cy) / ry) ** power) ** (1 / power)
    return (radius - 1) * min(rx, ry)


def coordinates(anatomy: Anatomy, size: int) -> tuple[np.ndarray, np.ndarray]:
    line = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(line - anatomy.shift[0], line - anatomy.shift[1])
    cos, sin = np.cos(anatomy.tilt) / anatomy.zoom, np.sin(anatomy.tilt) / anatomy.zoom
    return cos * x + sin * y, -sin * x + cos * y


def smooth_field(rng: np.random.Generator, size: int, scale: float) -> np.ndarray:
    """A smooth random field of mean 0 and deviation 1; `scale` is its grain as a share of the image."""
    field = gaussian_filter(rng.standard_normal((size, size)), scale * size, mode="wrap")
    return (field - field.mean()) / (field.std() + 1e-8)


def lung_masks(a: Anatomy, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Soft masks of the patient's right lung (viewer's left) and left lung, cut below by the diaphragm's
    domes.
    """
    masks = {}
    for side, sign, dome in (("right", -1, a.dome[0]), ("left", 1, a.dome[1])):
        across = (x - sign * a.lung_gap) * sign
        narrow = 1 - 0.35 * np.clip(
            -(y - a.lung_y) / a.lung_height, 0, 1
        )  # the apex is narrower than the base
        outline = _ellipse(across / narrow, y, 0.0, a.lung_y + 0.12, a.lung_width, a.lung_height, power=2.6)
        floor = dome + 1.3 * across**2
        masks[side] = _soft(outline) * _soft(y - floor)
    return masks


def _effusion(a: Anatomy, lungs: dict[str, np.ndarray], x, y, side: str, height: float) -> np.ndarray:
    """Fluid in the base of a lung, its upper edge rising to the chest wall (the meniscus sign)."""
    mask = np.zeros_like(x)
    for name, sign, dome in (("right", -1, a.dome[0]), ("left", 1, a.dome[1])):
        if side not in (name, "bilateral"):
            continue
        lateral = np.clip(((x - sign * a.lung_gap) * sign + a.lung_width) / (2 * a.lung_width), 0, 1)
        surface = dome + 0.12 - height * (0.55 + 0.75 * lateral**2)
        mask = np.maximum(mask, lungs[name] * _soft(surface - y, 0.05))
    return mask


def _ribs(a: Anatomy, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Brightness of the ribs in [0, 1]: arcs that fall away from the spine."""
    phase = (y + 0.85 - a.rib_slope * np.abs(x) + 0.5 * x**2) * a.ribs / 1.7
    inside = _soft(
        _ellipse(x, y, 0, a.lung_y + 0.1, a.lung_gap + a.lung_width + 0.03, a.lung_height + 0.05, 3.0)
    )
    return np.clip(np.cos(2 * np.pi * phase), 0, 1) ** 2 * inside * _soft(y - min(a.dome), 0.15)


def tissue(a: Anatomy, lungs: dict[str, np.ndarray], x, y, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The drawing's parts as soft masks or brightness maps, all (size, size) in [0, 1]."""
    size = len(x)
    chest_width = 2 * (a.lung_gap + a.lung_width)
    heart_rx = a.heart_ratio * chest_width / 2
    slope = a.shoulder + 0.55 * np.abs(x) ** 1.5
    hilum = sum(np.exp(-(((x - s * 0.2) / 0.22) ** 2) - ((y - a.lung_y - 0.05) / 0.3) ** 2) for s in (-1, 1))
    vessels = np.clip(smooth_field(rng, size, 0.025), 0, 2) * hilum * 0.5
    clavicle = np.exp(-(((y + 0.62 + 0.25 * np.abs(x)) / 0.035) ** 2)) * (np.abs(x) > 0.1) * (np.abs(x) < 0.8)
    return {
        "body": np.maximum(_soft(slope - y, 0.06), _soft(np.abs(x) - 0.2, 0.08)),
        "lungs": np.maximum(lungs["left"], lungs["right"]),
        "heart": _soft(_ellipse(x, y, 0.12 * chest_width * 0.5, a.dome[1] - 0.2, heart_rx, 0.36), 0.08),
        "spine": np.exp(-((x / 0.11) ** 2)),
        "ribs": _ribs(a, x, y),
        "vessels": np.clip(vessels, 0, 1),
        "clavicle": clavicle,
        "belly": _soft(a.dome[1] - 0.02 - y, 0.1),
    }


def radiograph(parts: dict[str, np.ndarray], fluid: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness in [0, 1] as an X-ray shows it: air dark, bone and fluid bright."""
    body = 0.5 + 0.12 * parts["spine"] + 0.12 * parts["belly"]
    image = 0.04 + (body - 0.04) * parts["body"]
    image = image * (1 - parts["lungs"]) + rng.uniform(0.12, 0.24) * parts["lungs"]
    image = np.maximum(image, rng.uniform(0.56, 0.66) * parts["heart"])
    image += (
        0.16 * parts["ribs"] * parts["body"] * (1 - 0.8 * parts["heart"])
        + 0.15 * parts["vessels"] * parts["lungs"]
        + 0.1 * parts["clavicle"]
    )
    return image * (1 - fluid) + rng.uniform(0.62, 0.72) * fluid


def finish(image: np.ndarray, rng: np.random.Generator, noise: float, shading: float) -> np.ndarray:
    size = len(image)
    image = image + shading * smooth_field(rng, size, 0.25) + noise * rng.standard_normal(image.shape)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def seeded(seed: int, index: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([purpose, seed, index])


def report(heart_enlarged: bool, side: str | None, extent: str | None) -> str:
    """The report that matches a phantom; one of 14."""
    heart = "The heart is enlarged." if heart_enlarged else "Heart size is normal."
    if side is None:
        return f"A chest x-ray. {heart} No pleural effusion."
    plural = "effusions" if side == "bilateral" else "effusion"
    article = "There are" if side == "bilateral" else "There is a"
    return f"A chest x-ray. {heart} {article} {extent} {side} pleural {plural}."


def draw_phantom(
    seed: int,
    index: int,
    size: int,
    side: str | None,
    extent: str | None = "large",
    site: Site | None = None,
    visit: int | None = None,
) -> Sample:
    """One X-ray-like phantom, a function of its arguments alone.

    `side` is one of SIDES or None for no effusion, `extent` one of EXTENTS. The sample's image is (size,
    size) uint8, its mask the effusion's (255 inside), its labels `finding`, `side`, `extent` and `heart`.
    With `site` it is seen by the scanner of that site, which is its domain, and has the masks `effusion`,
    though it be empty, `lungs` (without what the heart covers) and `heart`: they and the anatomy are the same
    for every site. `visit` becomes a label; the second is another exposure of the same patient, with noise of
    its own.
    """
    rng = seeded(seed, index, 1)
    anatomy = draw_anatomy(rng)
    x, y = coordinates(anatomy, size)
    lungs = lung_masks(anatomy, x, y)
    height = rng.uniform(0.55, 0.75) if extent == "large" else rng.uniform(0.38, 0.48)
    fluid = _effusion(anatomy, lungs, x, y, side, height) if side else np.zeros_like(x)
    parts = tissue(anatomy, lungs, x, y, rng)
    exposure = seeded(seed, index, 6) if visit == 2 else rng
    image = finish(
        radiograph(parts, fluid, exposure), exposure, noise=exposure.uniform(0.01, 0.03), shading=0.03
    )
    said: dict[str, str | int | float | bool] = {"visit": str(visit)} if visit else {}
    inside = {"effusion": fluid > 0.5} if side or site else {}
    if site:
        image = scanned(image, site, seeded(seed, index, 4))
        heart = parts["heart"] > 0.5
        inside |= {"lungs": (parts["lungs"] > 0.5) & ~heart, "heart": heart}
    return Sample(
        key=f"phantom-{seed}-{index:07d}" + (f"-{visit}" if visit else ""),
        image=image,
        caption=report(anatomy.heart_enlarged, side, extent),
        patient=f"phantom-{seed}-{index:07d}",
        labels=said
        | {
            "finding": "Effusion" if side else "No Finding",
            "side": side or "none",
            "extent": (extent or "none") if side else "none",
            "heart": "enlarged" if anatomy.heart_enlarged else "normal",
        },
        masks={name: (mask * 255).astype(np.uint8) for name, mask in inside.items()},
        domain=site,
    )


def phantom_samples(count: int, size: int, seed: int = 0) -> Iterator[Sample]:
    """`count` phantoms of `size` pixels, about half with an effusion, sides and extents in equal shares."""
    for index in range(count):
        yield phantom_sample(seed, index, size)


def phantom_sample(
    seed: int, index: int, size: int, site: Site | None = None, visit: int | None = None
) -> Sample:
    """Number `index` of `phantom_samples`, drawn without the others; `site` as for `draw_phantom`.

    At the second `visit` an effusion that was there has gone, and where there was none one has come.
    """
    rng = seeded(seed, index, 2)
    drawn = rng.random() < EFFUSION_SHARE
    side = rng.choice(SIDES) if drawn else None
    extent = rng.choice(EXTENTS)
    if visit == 2:
        later = seeded(seed, index, 5)
        side, extent = None if drawn else later.choice(SIDES), later.choice(EXTENTS)
    return draw_phantom(seed, index, size, side and str(side), str(extent), site, visit)
