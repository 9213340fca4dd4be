"""Whether the values that are to tell patients apart can do so: a split by anything else leaks patients."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medsd_ray.errors import InputError

LEAST_ROWS = 10
"""Of fewer rows nothing can be told."""
EACH_ITS_OWN = 0.9
"""The share of different values from which on a column tells images apart, not patients."""
FEW = 20
"""Values, at most, of what looks like a class."""
_PATIENTS = re.compile(
    r"(deid|anon|anonymous|pseudo)*(patient|subject|person|participant|individual|case|group)s?"
    r"(id|ids|no|nr|number|key|code|name|uid)?|mrn|pid"
)
"""Names, of letters alone, of columns that are believed."""


def check_patients(column: str | None, patients: Sequence[str]) -> None:
    """Raises InputError where a column does not look as if it told patients apart, or writes one in several
    ways.

    A column whose name says that it does is believed: a set may have one image of each patient.

    Args:
        column: Its name, or the keyword of a tag; None where patients come from paths.
        patients: Each image's.
    """
    said = "--patient-regex" if column is None else f"--patient-column {column!r}"
    different = set(patients)
    if twice := len(different) - len({_written_alike(patient) for patient in different}):
        raise InputError(
            f"{said}: {twice} patients differ from others in capitals, leading zeros or a .0 alone, and "
            "would be in several splits; write each in one way, or insist on it with --yes-split"
        )
    if column is not None and _PATIENTS.fullmatch(re.sub(r"[\W\d_]", "", column).casefold()):
        return
    if why := _doubt(patients):
        raise InputError(
            f"{said}: {why}; name what tells patients apart, or insist on a split by this with --yes-split"
        )


def _written_alike(patient: str) -> str:
    """The same text for `7`, `007` and `7.0`, and in small letters."""
    number = re.fullmatch(r"0*(\d+)(?:\.0+)?", patient)
    return number[1] if number else patient.casefold()


def _doubt(patients: Sequence[str]) -> str | None:
    values, rows = set(patients), len(patients)
    if rows < LEAST_ROWS:
        return None
    if all(re.fullmatch(r"\d{1,2}|1[01]\d|[-+]?\d*[.,]\d+", value) for value in values):
        return "numbers such as ages and measures have, not patients"
    if len(values) >= EACH_ITS_OWN * rows:
        return f"{len(values)} values in {rows} rows, as if nearly each image were of another patient"
    if len(values) <= min(FEW, rows / LEAST_ROWS):
        return f"{len(values)} values in {rows} rows, as classes have, not patients"
    return None
