"""Figures by domain and by subgroup of patients, and how far the best subgroup is from the worst."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medsd_ray.data.shards import Sample
from medsd_ray.evaluation.estimates import Missing, put, resampled, too_few
from medsd_ray.evaluation.figures.patient_draws import Figures, Form, PatientDraws

UNKNOWN = "unknown"
"""The domain, or the value of a field, of images of which it is not known."""
FIELDS = {
    "sex": ("sex", "gender", "patientsex", "patient sex", "patient gender"),
    "age": ("age", "patientage", "patient age"),
}
"""Subgroup field -> the labels that say it, in small letters."""
FEWER = Missing("fewer than two groups are large enough to be compared")


@dataclass(frozen=True)
class Judged:
    """What the figures of a task are of: `take` gives those of some images, as a function of weights."""

    take: Callable[[np.ndarray], Figures]
    forms: Mapping[str, Form]
    draws: PatientDraws
    headline: str
    """The figure whose gap between groups is told."""

    def row(self, of: np.ndarray) -> dict[str, Any]:
        """The figures over some images (indices), with their number and their patients'."""
        section: dict[str, Any] = {"images": len(of), "patients": self.draws.patients(of)}
        for name, value in self.draws.estimates(self.take(of), of, self.forms).items():
            put(section, name, value)
        return section


def domain_of(sample: Sample) -> str:
    """Where a sample comes from."""
    return sample.domain if sample.domain is not None else UNKNOWN


def subgroup_of(sample: Sample, field: str) -> str:
    """The value of a subgroup's field that a sample has: of an age its decade."""
    named = {name.casefold(): value for name, value in sample.labels.items()}
    text = next((str(named[name]).strip() for name in FIELDS[field] if name in named), "")
    return (_decade(text) if field == "age" else text) or UNKNOWN


def _decade(text: str) -> str:
    try:
        decade = int(float(text)) // 10 * 10
    except (ValueError, OverflowError):
        return ""
    return f"{decade} and older" if decade >= 90 else f"{decade} to {decade + 9}"


def members(values: Sequence[str]) -> dict[str, np.ndarray]:
    """Value -> the images (indices) that have it, the unknown ones last."""
    found = np.asarray(values)
    order = sorted(set(values), key=lambda value: (value == UNKNOWN, value))
    return {value: np.flatnonzero(found == value) for value in order}


def domain_rows(judged: Judged, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """A row of figures for each domain."""
    groups = members([domain_of(sample) for sample in samples])
    return [{"domain": name} | judged.row(of) for name, of in groups.items()]


def subgroup_sections(judged: Judged, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Of each field that some image has: a row of figures for each value, and the gap of the headline."""
    sections = []
    for field in FIELDS:
        groups = members([subgroup_of(sample, field) for sample in samples])
        if set(groups) - {UNKNOWN}:
            rows = [{"value": value} | judged.row(of) for value, of in groups.items()]
            sections.append({"field": field, "rows": rows} | gap(judged, groups))
    return sections


def gap(judged: Judged, groups: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The distance of the headline between the best and the worst group, over the same draws of patients;
    groups of unknown value, or too few to be judged, do not count.
    """
    section: dict[str, Any] = {"figure": judged.headline, "best": None, "worst": None}
    found: dict[str, tuple[float, np.ndarray]] = {}
    for name, of in groups.items():
        if name != UNKNOWN and too_few(len(of), judged.draws.patients(of)) is None:
            values, draws = judged.draws.compute(judged.take(of), of)
            if np.isfinite(value := float(values[judged.headline][0])):
                found[name] = value, draws[judged.headline]
    if len(found) < 2:
        put(section, "gap", FEWER)
        return section
    best, worst = (pick(found, key=lambda name: found[name][0]) for pick in (max, min))
    apart = found[best][1] - found[worst][1]
    value = found[best][0] - found[worst][0]
    put(section, "gap", resampled(value, apart[np.isfinite(apart)].tolist(), "patients"))
    return section | {"best": best, "worst": worst}
