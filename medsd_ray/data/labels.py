"""Which columns of a source become labels of its samples, and what their values may not look like.

A label stands in every shard and index in clear, so that a column becomes one only where it is known to be
harmless or asked for; and not with values that look as if they told who the patient is, unless that is
insisted on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from medsd_ray.data.identifying_values import identifying_value
from medsd_ray.errors import InputError

HARMLESS = frozenset(
    {"finding", "label", "kind", "split", "view", "plane", "laterality", "side", "modality", "sequence"}
    | {"sex", "age", "tissue", "visit"}
)
"""Columns that become labels unasked, in any case of letters. Others may be harmless too, such as `site`,
`location` and `url`, but are asked for.
"""
OLDEST = 90
"""Ages above are this: so few people are older that an age tells who (HIPAA, 45 CFR 164.514(b)(2))."""
LEAST_PATIENTS = 8
"""Of a column whose values are compared with the patients: among fewer, classes may be one a patient, too."""


@dataclass(frozen=True)
class LabelColumns:
    """The columns that a user asks for as labels, and those that are to be labels whatever they hold."""

    asked: tuple[str, ...] = ()
    insisted: tuple[str, ...] = ()

    def among(self, columns: Sequence[str], where: str) -> tuple[list[str], list[str]]:
        """Those of `columns` that become labels, and those that are left out, in order.

        Raises InputError, with `where` in it, for a column that is asked for and not there.
        """
        wanted = {*self.asked, *self.insisted}
        if absent := sorted(wanted - set(columns)):
            raise InputError(
                f"{where}: no column {absent[0]!r} that could be a label among "
                f"{', '.join(columns) or 'none'}; mend --label-column or --yes-label"
            )
        chosen = [name for name in columns if name in wanted or name.strip().casefold() in HARMLESS]
        return chosen, [name for name in columns if name not in chosen]

    def refused(self, name: str, cells: Sequence[tuple[str, str, str]]) -> str | None:
        """Why a column cannot be a label, in words without a value; None where it can.

        Args:
            name: Of the column.
            cells: (where, patient, value) of each sample.

        Raises:
            InputError: It cannot be one, and is asked for.
        """
        if name in self.insisted or (why := identifying(cells)) is None:
            return None
        if name in self.asked:
            raise InputError(
                f"{why}: column {name!r} is no label; leave it out, or insist on it with --yes-label {name!r}"
            )
        return f"column {name!r} is left out of the labels: {why}; insist on it with --yes-label {name!r}"


def identifying(cells: Sequence[tuple[str, str, str]]) -> str | None:
    """Why a column of (where, patient, value) may tell who a patient is, in words without a value."""
    seen = set()
    for where, _, value in cells:
        if value in seen:
            continue
        seen.add(value)
        if sign := identifying_value(value):
            return f"{where}: its value looks like {sign}"
    if _tells_patients_apart(cells):
        return "nearly every patient has a value of their own, as names and numbers of records are"
    return None


def _tells_patients_apart(cells: Iterable[tuple[str, str, str]]) -> bool:
    patients: dict[str, set[str]] = {}
    for _, patient, value in cells:
        if value and not re.fullmatch(r"\d{1,2}|[-+]?\d*\.\d+", value):  # ages and measures may well differ
            patients.setdefault(value, set()).add(patient)
    everyone = set().union(*patients.values())
    return len(everyone) >= LEAST_PATIENTS and len(patients) >= 0.9 * len(everyone)


def as_label(name: str, value: str) -> str:
    """The value as shards hold it: ages above OLDEST are OLDEST."""
    if not _is_age(name):
        return value
    years = re.fullmatch(r"\s*0*(\d{2,3})(?:\.\d+)?\s*(?:[yYjJ]\w*)?\s*", value)  # also DICOM's 095Y
    return str(OLDEST) if years and int(years[1]) >= OLDEST else value


@lru_cache(1000)
def _is_age(name: str) -> bool:
    """Whether one of a column's words is age."""
    return "age" in re.findall(r"[a-z]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())


def labels_of(values: Mapping[str, str], chosen: Sequence[str]) -> dict[str, str]:
    """The labels of a sample: of its `values`, the chosen ones."""
    return {name: as_label(name, values[name]) for name in chosen if name in values}
