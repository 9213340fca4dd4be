"""How far a set of images is from another, from their features: FID, KID, precision, recall, density,
coverage.

Features are (N, D) arrays, float64. `compare` sets several sets beside one reference at equal sample counts,
because FID falls with more samples, and gives intervals from repeated random halves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from medsd_ray.evaluation.estimates import Estimate, Missing, put, too_few, unless_few
from medsd_ray.evaluation.figures.sets import NO_BASE, NO_TRAIN, Sets
from medsd_ray.evaluation.messages import Say
from medsd_ray.evaluation.networks.extractors import Extractor

REPEATS = 200  # random halves, for the intervals
NEIGHBOURS = 5  # of precision, recall, density and coverage
ORDER = ("inception", "xrv", "classifier")
"""Extractors by name; the first one at hand gives the report's main FID."""


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Fréchet distance of the Gaussians fitted to x (n, d) and y (m, d) (Heusel et al. 2017, arXiv
    1706.08500, eq. 6).

    |μx - μy|² + tr Σx + tr Σy - 2 tr (Σx Σy)^½. With Σx = AᵀA and Σy = BᵀB the last trace is the sum of the
    singular values of A·Bᵀ: exact in float64 where few samples make the covariances singular and a matrix
    root breaks down. Raises ValueError below 2 samples.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError("a Fréchet distance needs 2 samples of each set")
    (mean_x, a), (mean_y, b) = _gaussian(x), _gaussian(y)
    overlap = torch.linalg.svdvals(a @ b.T).sum()
    return max(0.0, float(((mean_x - mean_y) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * overlap))


def _gaussian(features: np.ndarray) -> tuple[Tensor, Tensor]:
    """The mean (d,) of features (n, d), and A (k, d) with AᵀA their covariance, k no more than n or d; both
    float64.

    The centred features are such an A. With more samples than features a square one comes from their Gram
    matrix by Cholesky, in half the time of QR; by QR where that would lose digits (its error grows with the
    condition number: Golub & Van Loan, 5.3.2).
    """
    f = torch.from_numpy(features).double()
    mean = f.mean(0)
    f = f - mean
    if len(f) > f.shape[1]:
        # NumPy knows that the product is symmetric, and computes one half of it.
        upper, failed = torch.linalg.cholesky_ex(torch.from_numpy(f.numpy().T @ f.numpy()), upper=True)
        pivots = upper.diagonal()
        weak = bool(failed) or bool(pivots.min() < 1e-6 * pivots.max())
        f = torch.linalg.qr(f, mode="r").R if weak else upper
    return mean, f / (len(features) - 1) ** 0.5


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared MMD with the kernel (x·y/d + 1)³, for x and y of equal shape (Bińkowski et al. 2018,
    arXiv 1801.01401).
    """
    return float(poly_mmd(torch.from_numpy(x).double(), torch.from_numpy(y).double()))


def pairwise_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Euclidean distances (n, m), float64; by products, so that equal rows come out about 1e-8 of their
    length apart.
    """
    return torch.cdist(
        torch.from_numpy(x).double(), torch.from_numpy(y).double(), compute_mode="use_mm_for_euclid_dist"
    ).numpy()


def prdc(real: np.ndarray, fake: np.ndarray, k: int = NEIGHBOURS) -> dict[str, float]:
    """Precision, recall (Kynkäänniemi et al. 2019, arXiv 1904.06991), density, coverage (Naeem et al. 2020,
    arXiv 2002.09797).

    A sample's ball reaches to its k-th nearest neighbour in its own set. Precision: share of fakes in any
    real ball; recall: share of reals in any fake ball; density: real balls a fake lies in, over k; coverage:
    share of real balls that hold a fake. Raises ValueError where a set has k samples or fewer.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"needs more than {k} samples of each set, there are {len(real)} and {len(fake)}")

    def radii(f: np.ndarray) -> np.ndarray:
        return np.partition(pairwise_distances(f, f), k, axis=1)[:, k]  # column 0 is the sample itself

    between = pairwise_distances(real, fake)
    in_real = between < radii(real)[:, None]
    return {
        "precision": float(in_real.any(0).mean()),
        "recall": float((between < radii(fake)[None]).any(1).mean()),
        "density": float(in_real.sum(0).mean() / k),
        "coverage": float(in_real.any(1).mean()),
    }


@dataclass(frozen=True)
class Features:
    """Features of a set of images (N, D) with the group (patient) of each."""

    values: np.ndarray
    groups: list[str]

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Comparison:
    """Every candidate against one reference, at equal counts."""

    samples: int  # of each candidate
    reference: int
    repeats: int
    fid: dict[str, Estimate]
    kid: dict[str, Estimate]
    kid_std: dict[str, float]
    fid_difference: Estimate | None  # generated - base
    kid_difference: Estimate | None
    share_below: float | None  # of the random halves, with generated's FID below base's


def draw(groups: list[str], count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` indices without repeats, whole groups after each other (the last one cut), groups in random
    order.
    """
    names, of = np.unique(groups, return_inverse=True)
    order = rng.permutation(len(names))[of]
    return np.argsort(order, kind="stable")[:count]


def compare(
    reference: Features, candidates: dict[str, Features], seed: int, repeats: int = REPEATS
) -> Comparison:
    """FID and KID of each candidate (`generated`, and where given `real` and `base`) against the reference.

    Every candidate is cut to the smallest one's count. FID's value is that of all (a larger candidate: the
    mean over 20 random cuts); its interval is the spread over random halves of candidate and reference
    (delete-half jackknife; patients stay whole), moved to the value, since FID of halves is larger. KID is
    unbiased: mean and deviation over the halves.
    """
    samples = min(len(c) for c in candidates.values())
    half, half_reference = samples // 2, len(reference) // 2
    if min(half, half_reference) < 2:
        raise ValueError(f"needs at least 4 images of each set, there are {samples} and {len(reference)}")
    rng = np.random.default_rng([seed, 17])
    value = {name: _at_count(reference, c, samples, rng) for name, c in candidates.items()}
    fids: dict[str, list[float]] = {name: [] for name in candidates}
    kids: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        held = reference.values[draw(reference.groups, half_reference, rng)]
        for name, candidate in candidates.items():
            some = candidate.values[draw(candidate.groups, half, rng)]
            fids[name].append(frechet_distance(some, held))
            even = min(len(some), len(held))
            kids[name].append(kernel_distance(some[:even], held[:even]))
    fid, kid = ({name: np.array(v) for name, v in found.items()} for found in (fids, kids))
    both = {"generated", "base"} <= set(candidates)
    return Comparison(
        samples=samples,
        reference=len(reference),
        repeats=repeats,
        fid={name: _centred(value[name], fid[name], floor=0.0) for name in candidates},
        kid={name: _centred(float(kid[name].mean()), kid[name]) for name in candidates},
        kid_std={name: float(kid[name].std()) for name in candidates},
        fid_difference=_centred(value["generated"] - value["base"], fid["generated"] - fid["base"])
        if both
        else None,
        kid_difference=_centred(
            float((kid["generated"] - kid["base"]).mean()), kid["generated"] - kid["base"]
        )
        if both
        else None,
        share_below=float((fid["generated"] < fid["base"]).mean()) if both else None,
    )


def _at_count(reference: Features, candidate: Features, count: int, rng: np.random.Generator) -> float:
    cuts = 1 if len(candidate) == count else 20
    found = [
        frechet_distance(candidate.values[draw(candidate.groups, count, rng)], reference.values)
        for _ in range(cuts)
    ]
    return float(np.mean(found))


def _centred(value: float, spread: np.ndarray, floor: float = -np.inf) -> Estimate:
    low, high = np.quantile(spread - spread.mean(), [0.025, 0.975])
    return Estimate(value, float(max(floor, value + low)), float(value + high))


def distance_sections(
    loaded: dict[str, Extractor | Missing], sets: Sets, seed: int, say: Say
) -> dict[str, dict]:
    """The report's `fid`, `kid` and `prdc`, each with the main extractor's figures on top and every
    extractor's in `by_extractor`.
    """
    each = {name: _distances(loaded[name], sets, seed, say) for name in ORDER}
    usable = [name for name in ORDER if each[name]["fid"]["generated"] is not None]
    main = usable[0] if usable else None
    sections = {}
    for kind in ("fid", "kid", "prdc"):
        top = dict(each[main or "classifier"][kind])
        sections[kind] = top | {"extractor": main, "by_extractor": {name: each[name][kind] for name in ORDER}}
    if main is None:
        reasons = "; ".join(f"{name}: {each[name]['fid']['generated_reason']}" for name in ORDER)
        for section in sections.values():
            put(section, "extractor", Missing("none could be used"))
            for figure in ("generated", "real", "base"):
                put(section, figure, Missing(f"no feature extractor ({reasons})"))
    return sections


def _distances(extractor: Extractor | Missing, sets: Sets, seed: int, say: Say) -> dict[str, dict]:
    """`fid`, `kid` and `prdc` of one extractor."""
    if isinstance(extractor, Missing):
        return _not_measured(extractor)
    say(f"evaluate: features of {extractor.name}")
    candidates = _features(extractor, sets, seed)
    reference = candidates.pop("held_out")
    try:
        comparison = compare(reference, candidates, seed)
    except ValueError as error:
        return _not_measured(Missing(str(error)))
    about = {
        "dimensions": extractor.dimensions,
        "description": extractor.description,
        "samples": comparison.samples,
        "reference_samples": comparison.reference,
        "repeats": comparison.repeats,
    }
    sections: dict[str, dict[str, Any]] = {kind: dict(about) for kind in ("fid", "kid", "prdc")}
    # Generated images are as many as one likes; patients are counted of the real ones.
    few = too_few(min(comparison.samples, comparison.reference), len(set(reference.groups)))
    for name, absent in (("generated", NO_TRAIN), ("real", NO_TRAIN), ("base", NO_BASE)):
        if name not in candidates:
            for section in sections.values():
                put(section, name, absent)
            continue
        put(sections["fid"], name, unless_few(comparison.fid[name], few))
        put(sections["kid"], name, unless_few(comparison.kid[name], few))
        put(sections["kid"], f"{name}_std", few or comparison.kid_std[name])
        put(sections["prdc"], name, _prdc(reference.values, candidates[name], comparison.samples, seed))
    put(sections["fid"], "generated_below_base", _criterion(comparison.fid_difference, few))
    put(sections["kid"], "generated_below_base", _criterion(comparison.kid_difference, few))
    if comparison.share_below is not None and few is None:
        sections["fid"]["generated_below_base"]["share_of_halves"] = comparison.share_below
    return sections


def _not_measured(why: Missing) -> dict[str, dict]:
    sections: dict[str, dict] = {"fid": {}, "kid": {}, "prdc": {}}
    for kind, section in sections.items():
        for name in ("generated", "real", "base", *(() if kind == "prdc" else ("generated_below_base",))):
            put(section, name, why)
    return sections


def _criterion(difference: Estimate | None, few: Missing | None) -> dict | Missing:
    """Generated minus base: it holds where the whole interval is below zero, for which there may be too few
    images.
    """
    if difference is None:
        return NO_BASE
    if few is not None:
        return few
    return {"difference": difference.value, "interval": difference.interval, "holds": difference.high < 0}


def _features(extractor: Extractor, sets: Sets, seed: int) -> dict[str, Features]:
    """Of every set; of the training images no more than a fair comparison and its intervals use."""
    compared = {"held_out": sets.held_out, "generated": sets.generated}
    if sets.train is not None:
        train, enough = sets.train, 2 * max(len(sets.generated), len(sets.held_out))
        if len(train) > enough:
            train = train.take(draw(train.groups, enough, np.random.default_rng([seed, 31])))
        compared["real"] = train
    if sets.base is not None:
        compared["base"] = sets.base
    return {name: Features(extractor(images.pixels), images.groups) for name, images in compared.items()}


def _prdc(real: np.ndarray, fake: Features, count: int, seed: int) -> dict | Missing:
    """`prdc` with `count` fakes, or why there is none."""
    drawn = draw(fake.groups, count, np.random.default_rng([seed, 37]))
    try:
        return prdc(real, fake.values[drawn])
    except ValueError as error:
        return Missing(str(error))
