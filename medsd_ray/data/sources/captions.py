"""Captions made of a row's columns: `{age} year old {sex}. {view} chest X-ray. {impression}`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from medsd_ray.data.labels import as_label
from medsd_ray.data.sources.near_names import near_name
from medsd_ray.errors import InputError

_FIELD = re.compile(r"\{([^{}]+)\}")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class CaptionTemplate:
    """Sentences with fields in braces. A sentence of which a field is empty is left out."""

    sentences: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> CaptionTemplate:
        """What `--caption` says. Raises InputError where it is empty, or a brace has no other."""
        sentences = tuple(part for part in _SENTENCE_END.split(" ".join(text.split())) if part)
        if not sentences:
            raise InputError(
                "--caption is empty; give sentences with fields, such as '{view} chest X-ray. {impression}'"
            )
        for sentence in sentences:
            if set(_FIELD.sub("", sentence)) & set("{}"):
                raise InputError(
                    f"--caption: {sentence[:60]!r} has a brace without its other; write a field as {{view}}"
                )
        return cls(sentences)

    def __str__(self) -> str:
        return " ".join(self.sentences)

    @property
    def fields(self) -> list[str]:
        """The fields' names, each once."""
        return list(dict.fromkeys(name for part in self.sentences for name in _fields(part)))

    def check(self, names: Collection[str], secret: Collection[str], where: str) -> None:
        """Raises InputError for a field that is none of `names`, or one of `secret`, which name files
        or the patient; `where` is the table's name.
        """
        for field in self.fields:
            if field in secret:
                raise InputError(
                    f"--caption: {{{field}}} names a file or the patient, so that it tells who; leave it out"
                )
            if field not in names:
                near = near_name(field, set(names) - set(secret))
                meant = f"; do you mean {{{near}}}?" if near else ""
                there = ", ".join(name for name in names if name not in secret) or "none"
                raise InputError(f"--caption: {where} has no field {{{field}}} among {there}{meant}")

    def fill(self, values: Mapping[str, str]) -> tuple[str, list[str]]:
        """The caption of one row, '' where every sentence is left out; and the sentences that are left out.

        A field's value may be a sentence of its own: its full stop and the template's become one.
        """
        said, left_out = [], []
        for sentence in self.sentences:
            if any(not values.get(name, "").strip() for name in _fields(sentence)):
                left_out.append(sentence)
            else:
                said.append(_FIELD.sub(lambda match: _value(match, values), sentence))
        return " ".join(said), left_out


def left_out_sentences(counts: Mapping[str, int]) -> list[str]:
    """What to say of the sentences that captions go without: template -> how many captions."""
    return [f"{count} captions go without {part!r}: a field of it is empty" for part, count in counts.items()]


def _fields(sentence: str) -> list[str]:
    return _FIELD.findall(sentence)


def _value(match: re.Match[str], values: Mapping[str, str]) -> str:
    value = " ".join(as_label(match[1], values[match[1]]).split())
    follows = match.string[match.end() : match.end() + 1]
    return value.rstrip(" .!?") if follows and follows in ".!?" else value
