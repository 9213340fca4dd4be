"""What a paper's experiment is: verbs of medsd in order, and claims about what they measured.

It is written as NAME.steps.yaml beside the study NAME.yaml. All that it makes lies in one folder, OUT, in
which the steps run, so that their paths are relative to it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from medsd_ray.spec.rules import SpecModel
from medsd_ray.spec.types import Json

VERBS = (
    "prepare", "encode", "train", "tune", "generate", "predict", "evaluate", "localize", "insert", "augment",
    "export",
)  # fmt: skip
"""Of medsd, which a step may be: those that go on where they stopped, or do nothing where they are done."""
Size = Literal["small", "full"]
Expected = Literal["higher", "lower"]

Line = Annotated[str, Field(min_length=1, max_length=2000)]
File = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^/.][^\\]*$")]
"""A path inside of the output."""


class Step(SpecModel):
    """One verb with its arguments, without `medsd`: with images of the user's own, and with drawn ones.

    A word in braces, such as {steps}, is a setting of the size; {here} is the folder of the file itself, and
    {data} the images that a user gave. One that is only `drawn`, or only `data`, is
    left out in the other case.
    """

    drawn: Line | None = None
    data: Line | None = None

    @field_validator("drawn", "data")
    @classmethod
    def _a_verb(cls, line: str | None) -> str | None:
        if line is None:
            return None
        try:
            verb = shlex.split(line)[0]
        except (ValueError, IndexError) as error:
            raise ValueError(f"{line!r} is no command: {error}") from error
        if verb not in VERBS:
            raise ValueError(f"{verb!r} is not one of {', '.join(VERBS)}")
        return line


class Measurement(SpecModel):
    """A figure of a study's combination, or of a report.

    Of a study: its folder in the output and the values that the combination has, each by its dimension; those
    left out may have any, and {steps} is a setting of the size. Of a report: the path of its JSON file in the
    output.
    """

    figure: Line = Field(description="a study's metric, or the dotted path of a number in the report")
    study: File | None = None
    where: dict[str, Json] = Field(default={}, description="dimension -> value, of a study")
    pick: Literal["best"] | None = Field(
        default=None, description="of several combinations the one that speaks most for the claim"
    )
    report: File | None = None
    count: Line | None = Field(
        default=None, description="the dotted path of the report's number of images, if it has one"
    )

    @model_validator(mode="after")
    def _of_one(self):
        if (self.study is None) == (self.report is None):
            raise ValueError("give one of study and report")
        if self.report is not None and (self.where or self.pick):
            raise ValueError("where and pick are of a study")
        if self.study is not None and self.count is not None:
            raise ValueError("count is of a report; a study has its number of seeds")
        return self


class Claim(SpecModel):
    """One thing that the paper says, as a comparison of two measurements, or of one with a number."""

    claim: Line
    reported: Line = Field(description="the paper's own numbers, or that none were read")
    expected: Expected = Field(description="how `of` stands to `than`, if the claim holds")
    of: Measurement
    than: Measurement | float


class PaperSpec(SpecModel):
    """A paper's experiment at two sizes: `small` takes two cores 15 minutes, `full` has three seeds."""

    title: Line
    citation: Line = Field(description="authors, year, where it appeared")
    link: Annotated[str, Field(pattern=r"^https://")]
    read: Line = Field(description="what was read of the paper")
    inferred: Line = Field(description="what was not read there, and done as seemed best")
    settings: dict[Size, dict[str, Any]] = Field(description="size -> word -> what stands for it in a step")
    steps: Annotated[list[Step], Field(min_length=1, max_length=64)]
    claims: Annotated[list[Claim], Field(min_length=1, max_length=32)]

    @field_validator("steps", mode="before")
    @classmethod
    def _same_for_both(cls, value: Any) -> Any:
        """A line alone is the same step with the user's images and with drawn ones."""
        if not isinstance(value, list):
            return value
        return [{"drawn": one, "data": one} if isinstance(one, str) else one for one in value]

    @model_validator(mode="after")
    def _words_known(self):
        if set(self.settings) != {"small", "full"}:
            raise ValueError("settings: give small and full")
        for size, settings in self.settings.items():
            for number, step in enumerate(self.steps, start=1):
                for case, line in (("drawn", step.drawn), ("data", step.data)):
                    known = [*settings, "here", *(["data"] if case == "data" else [])]
                    for word in words_in(line or ""):
                        if word not in known:
                            raise ValueError(
                                f"step {number}: {{{word}}} is not among settings.{size}: {', '.join(known)}"
                            )
            for claim in self.claims:
                for side in (claim.of, claim.than):
                    for value in side.where.values() if isinstance(side, Measurement) else ():
                        if _is_word(value) and value[1:-1] not in settings:
                            raise ValueError(
                                f"claims: {value} is not among settings.{size}: {', '.join(settings)}"
                            )
        return self

    def claims_of(self, size: Size) -> list[Claim]:
        """The claims with the settings of the size in the place of words in braces, as `where` may have."""
        return [
            claim.model_copy(
                update={
                    name: side.model_copy(update={"where": self._filled(side.where, size)})
                    for name in ("of", "than")
                    if isinstance(side := getattr(claim, name), Measurement)
                }
            )
            for claim in self.claims
        ]

    def _filled(self, where: Mapping[str, Any], size: Size) -> dict[str, Any]:
        return {
            name: self.settings[size][value[1:-1]] if _is_word(value) else value
            for name, value in where.items()
        }

    def commands(self, size: Size, given: Mapping[str, str]) -> list[list[str]]:
        """The words of each step, without `medsd`. `given` has `here`, and `data` where a user gave
        images.
        """
        values = {name: _text(value) for name, value in self.settings[size].items()} | dict(given)
        lines = [step.data if "data" in given else step.drawn for step in self.steps]
        return [[word.format_map(values) for word in shlex.split(line)] for line in lines if line is not None]


def words_in(line: str) -> list[str]:
    """The words in braces of a step. Raises ValueError where braces do not match, or hold more than that."""
    found = []
    for _, name, form, conversion in Formatter().parse(line):
        if name is not None:
            if form or conversion:
                raise ValueError(f"{{{name}}}: braces hold a word alone; {{{{ and }}}} stand for themselves")
            found.append(name)
    return found


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("{") and value.endswith("}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
