"""What published sets of chest X-rays say of findings, as columns: one for each finding, and two that name
all that are there, `finding` as a label and `finding_names` for captions.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Literal

from medsd_ray.data.sources.source import BadSample

Uncertain = Literal["positive", "negative", "omit"]
"""What becomes of a finding that the reports are uncertain of; omitted, it has no label."""

SEPARATOR = "|"
NO_FINDING = "No Finding"
CHEXPERT = (
    NO_FINDING,
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""The findings of CheXpert's labeller, which MIMIC-CXR-JPG has too (Irvin et al. 2019, arXiv:1901.07031)."""
NIH = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
"""Those of NIH ChestX-ray14 (Wang et al. 2017, arXiv:1705.02315)."""


def labelled(cells: Mapping[str, str], uncertain: Uncertain) -> dict[str, str]:
    """The columns of CheXpert's findings.

    Args:
        cells: Finding -> `1` (it is there), `0` (it is not), `-1` (uncertain), each with `.0` or without, or
            nothing, where the report does not mention it.
        uncertain: What becomes of those that are uncertain.

    Returns:
        Finding -> `positive`, `negative`, or nothing where it is not known; `finding` and `finding_names`.

    Raises:
        BadSample: A cell has another value.
    """
    values = {"1": "positive", "0": "negative", "-1": "" if uncertain == "omit" else uncertain, "": ""}
    found = {}
    for name in CHEXPERT:
        cell = cells.get(name, "").strip().removesuffix(".0")
        if cell not in values:
            raise BadSample(f"{name} is neither 1, 0, -1 nor empty; mend the table")
        found[name] = values[cell]
    return found | in_words(name for name, value in found.items() if value == "positive")


def listed(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """The columns of an image of which all findings are listed: each known one is positive or negative.

    Raises BadSample for a name that is not known.
    """
    there, known = set(names), tuple(known)
    if there - {*known, NO_FINDING}:
        raise BadSample("it has a finding that this set does not know; mend the table")
    each = {name: "positive" if name in there else "negative" for name in known}
    return each | in_words(name for name in (NO_FINDING, *known) if name in there)


def in_words(names: Iterable[str]) -> dict[str, str]:
    """`finding`, the names as NIH's tables join them, and `finding_names`, the same for captions. That there
    is no finding is said where there is none beside it.
    """
    each = list(dict.fromkeys(names))
    said = [name for name in each if name != NO_FINDING or len(each) == 1]
    return {"finding": SEPARATOR.join(said), "finding_names": ", ".join(said).replace("_", " ").lower()}


def python_list(text: str) -> list[str]:
    """The words of a cell that is a list as Python writes it, such as `['normal', ' kyphosis']`, each once.

    Empty words are dropped. Raises BadSample where it is no such list.
    """
    try:
        words = ast.literal_eval(text.strip() or "[]")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise BadSample("its labels are no list such as ['normal', 'kyphosis']; mend the table")
    return list(dict.fromkeys(word.strip() for word in words if word.strip()))
