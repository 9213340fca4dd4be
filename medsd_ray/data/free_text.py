"""Signs that text may name a person. They are warned of, not removed: only a reader can tell."""

from __future__ import annotations

import re

# Each pattern reads a text once: a word of any length costs no more than its length.
_SIGNS = {
    "a title and a name": r"\b(?:Dr|Mr|Mrs|Ms|Miss|Prof|Doctor|Professor)\b\.?\s+"
    r"(?!X{2,}\b)[A-Z][A-Za-z'’-]",
    "a patient's name": r"(?i:\b(?:patient(?:['’]s)?(?:\s+name)?|name|pt)\s*:)\s*"
    r"(?!X{2,}\b)[A-Z][A-Za-z'’-]",
    "a date of birth": r"(?i:\b(?:d\.?o\.?b\b|date\s+of\s+birth|born\s+(?:on|in)\b|birth\s*date))",
    "a date": r"\b(?:\d{1,2}[/.-]\d{1,2}[/.-](?:19|20)?\d{2}|(?:19|20)\d{2}-\d{2}-\d{2})\b",
    "a record number": r"(?i:\b(?:mrn|medical record|accession|patient id)\b\W*(?:number|no|nr)?\b)"
    r"\W{0,3}\w*\d|\b\d{7,}\b",
    "an e-mail address": r"[\w.+-]@[\w-]+\.\w",
    "a telephone number": r"(?<!\w)(?:\+?\d{1,3}[ -])?\(?\d{3}\)?[ -]\d{3}[ -]\d{4}\b",
}
_COMPILED = {sign: re.compile(pattern) for sign, pattern in _SIGNS.items()}


def signs_of_identity(text: str) -> tuple[str, ...]:
    """What in a report may name a person, in words; never the text itself."""
    return tuple(sign for sign, pattern in _COMPILED.items() if pattern.search(text))
