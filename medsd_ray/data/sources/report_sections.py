"""The sections of a MIMIC-CXR report, cut as the data set's own tools cut them (MIT-LCP/mimic-cxr,
`create_section_files.py`), which are what RoentGen and others train on.

A heading is a line's beginning in capitals with a colon. Its many spellings become `impression`, `findings`
or neither; a report that has neither is read from the second paragraph of its last section on.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import lru_cache

SECTIONS = ("impression", "findings", "last_paragraph")
"""In the order in which one of them is taken as what the report says."""

_HEADING = re.compile(r"\n ([A-Z ()/,-]+):\s")
_PARAGRAPH = "\n \n"
_MAIN = ("impression", "findings", "history", "comparison", "addendum")
"""A heading that has one of these words is that section, the first of them first."""
_SPELLED = ("impression", "findings", "comparison", "indication")
"""Those that are misspelled in some reports."""
_WHOLE_STUDY = re.compile(
    "chest|portable|ribs|bone window|two views|one view|frontal and|frontal (?:semi-)?upright|"
    "(?:frontal|pa|ap|lateral) view|(?:pa|ap) and lat|lateral and (?:pa|ap)"
)
"""A heading with the study's name or view stands above its findings."""

# Studies whose conclusion no rule finds, as the tools list them: the section that it is in, the characters
# that it is, and those that say nothing.
_IN_SECTION = {
    "recommendations": "50913680 59768032 59067458 59087630 58157373 56482935 58375018",
    "examination": "59363654 53356173 50743547 59215320 55157853",
    "technique": "59279892 53202765 50808053",
    "indication": "57936451 50058765 51966317 55124749 54365831 54654948",
    "note": "56451190",
    "history": "51491012",
}
_AT = {
    "50525523": (201, 349),
    "57564132": (233, 554),
    "59982525": (313, 717),
    "53488209": (149, 475),
    "54875119": (234, 988),
    "50196495": (59, 399),
    "56579911": (59, 218),
    "52648681": (292, 631),
    "59889364": (172, 453),
    "53514462": (73, 377),
    "59505494": (59, 450),
    "53182247": (59, 412),
    "51410602": (47, 320),
    "56412866": (522, 822),
    "54986978": (59, 306),
    "59003148": (262, 505),
    "57150433": (61, 394),
    "56760320": (219, 457),
    "59562049": (158, 348),
    "52674888": (145, 296),
    "55258338": (192, 568),
    "59330497": (140, 655),
    "52119491": (179, 454),
}
_SILENT = "58235663 50798377 54168089 53071062 56724958 54231141 53607029 52035334"
_SECTION_OF = {study: section for section, studies in _IN_SECTION.items() for study in studies.split()}


def cut(text: str, study: str = "") -> dict[str, str]:
    """What a report says, by section.

    Args:
        text: The whole report.
        study: Its number, such as `50414267`; some are known to be laid out as no other.

    Returns:
        Of SECTIONS those that it has, each in one line; nothing where it has none. Of several of a name the
        last counts.
    """
    text = text.replace("\r\n", "\n")
    if study and study in _SILENT.split():
        return {}
    if study in _AT:
        return _lines({"findings": text[slice(*_AT[study])]})
    sections = [(name, body) for name, body in _split(text) if body.strip() or name not in SECTIONS]
    if study in _SECTION_OF:
        said = [body for name, body in sections if name == _SECTION_OF[study]]
        return _lines({"findings": said[-1] if said else ""})
    found = {name: body for name, body in sections if name in SECTIONS}
    if not found:
        found["last_paragraph"] = sections[-1][1].partition(_PARAGRAPH)[2]
    return _lines(found)


def _lines(sections: dict[str, str]) -> dict[str, str]:
    return {name: line for name, body in sections.items() if (line := " ".join(body.split()))}


def _split(text: str) -> list[tuple[str, str]]:
    """(name, text) of each section, in order; the first is what stands above the first heading."""
    sections, name, start, match = [], "", 0, _HEADING.search(text)
    while match:
        sections.append((name, text[start : match.start()]))
        name, start = _normal(match[1]), match.end()
        # A heading right below another one belongs to its text.
        line_end = text.find("\n", start)
        match = _HEADING.search(text, max(line_end, start))
    sections.append((name, text[start:]))
    return sections


@lru_cache(1000)
def _normal(heading: str) -> str:
    """The name of the section below a heading."""
    name = heading.lower().strip()
    if name in ("conclusion", "ndication"):  # the latter once, above an impression
        return "impression"
    if word := next((word for word in _MAIN if word in name), None):
        return word
    if close := get_close_matches(name, _SPELLED, n=1, cutoff=0.85):
        return close[0]
    if _WHOLE_STUDY.search(name):
        return "findings"
    return {"recommendation": "recommendations", "recommendation(s)": "recommendations"}.get(name, name)
