"""From a search space to combinations: pure functions, no engine.

A combination is a dict of dotted path -> value, with an entry for each dimension that is active in it: one
whose `when` holds. A condition speaks of other dimensions, which come first whatever the order in the file
(Kubernetes sorts a map).
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from medsd_ray.spec.rules import Rule, SpecModel
from medsd_ray.spec.types import Json


class Dimension(SpecModel):
    """What is tried for one field of the run: `choice`, `uniform` or `loguniform`."""

    choice: Annotated[list[Json], Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="values; for a component, methods in their short or long form"
    )
    uniform: tuple[float, float] | None = Field(default=None, description="from, to")
    loguniform: tuple[float, float] | None = Field(
        default=None, description="from, to, both above 0; drawn by their logarithm"
    )
    when: Annotated[
        dict[str, Annotated[list[Json], Field(min_length=1, max_length=64)]], Field(max_length=16)
    ] = Field(
        default={},
        description="other dimensions and the values (of a component: methods) with which this one is tried",
    )

    rules = (
        Rule(
            # CEL does not see `choice`, whose values are of any type.
            "!has(self.uniform) || !has(self.loguniform)",
            "give one of choice, uniform and loguniform",
            lambda dimension: dimension.kinds == 1,
        ),
        Rule(
            "!has(self.uniform) || self.uniform[0] < self.uniform[1]",
            "uniform: the first number must be below the second",
            lambda dimension: not dimension.uniform or dimension.uniform[0] < dimension.uniform[1],
        ),
        Rule(
            "!has(self.loguniform) || (self.loguniform[0] > 0.0 && self.loguniform[0] < self.loguniform[1])",
            "loguniform: the first number must be above 0 and below the second",
            lambda dimension: (
                not dimension.loguniform or 0 < dimension.loguniform[0] < dimension.loguniform[1]
            ),
        ),
    )

    @property
    def kinds(self) -> int:
        """How many of choice, uniform and loguniform are given."""
        return sum(kind is not None for kind in (self.choice, self.uniform, self.loguniform))

    @property
    def bounds(self) -> tuple[float, float]:
        """Of a range. Raises ValueError for a choice."""
        found = self.uniform or self.loguniform
        if found is None:
            raise ValueError("a choice has no bounds")
        return found


Space = Mapping[str, "Dimension"]


Combination = dict[str, Any]


def ordered(space: Space) -> list[str]:
    """The paths, each after those that its `when` names. Raises ValueError where that cannot be."""
    for path, dimension in space.items():
        if unknown := [other for other in dimension.when if other not in space]:
            raise ValueError(f"space.{path}.when: {unknown[0]} is not a dimension of the space")
    paths: list[str] = []
    while len(paths) < len(space):
        ready = [p for p, d in space.items() if p not in paths and all(other in paths for other in d.when)]
        if not ready:
            raise ValueError(
                f"space.{next(p for p in space if p not in paths)}.when: the conditions go round in a circle"
            )
        paths.append(ready[0])
    return paths


def short(value: Any) -> Any:
    """A component's method where the value is one in its long form; the value itself otherwise."""
    return value["method"] if isinstance(value, Mapping) and "method" in value else value


def repeated(values: Iterable[Any]) -> str | None:
    """The first value that is there twice, as one number or method in two forms is, in words; None where all
    differ.
    """
    seen = set()
    for value in values:
        known = json.dumps(_one_form(value), sort_keys=True)
        if known in seen:
            return json.dumps(value)
        seen.add(known)
    return None


def in_form_of(space: Space, params: Combination) -> Combination:
    """The values as the space has them: an earlier version took `1e-4` of a choice for a text, and wrote it
    so.
    """
    found = dict(params)
    for path, value in params.items():
        choices = (space[path].choice if path in space else None) or []
        found[path] = next((one for one in choices if _one_form(one) == _one_form(value)), value)
    return found


def _one_form(value: Any) -> Any:
    """Equal for values that a field takes alike: 1, 1.0 and "1"; a method alone and in its long form."""
    if isinstance(value, Mapping):
        if set(value) == {"method"}:
            return _one_form(value["method"])
        return {name: _one_form(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_one_form(inner) for inner in value]
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return float(value)
    return value


def holds(dimension: Dimension, combination: Combination) -> bool:
    """Whether the dimension is active, given the values of those before it."""
    return all(
        path in combination
        and any(combination[path] == one or short(combination[path]) == one for one in values)
        for path, values in dimension.when.items()
    )


def fill(space: Space, choose: Callable[[str, Dimension], Any]) -> Combination:
    """One combination: `choose` gives the value of each active dimension, in order."""
    found: Combination = {}
    for path in ordered(space):
        if holds(space[path], found):
            found[path] = choose(path, space[path])
    return found


def combinations(space: Space, end: int = 0) -> Iterator[Combination]:
    """Every combination of the choices, each once; a range stands at one of its ends (0: lower, 1: upper)."""

    def extend(found: Combination, paths: list[str]) -> Iterator[Combination]:
        if not paths:
            yield found
            return
        path, dimension = paths[0], space[paths[0]]
        if not holds(dimension, found):
            yield from extend(found, paths[1:])
            return
        for value in [dimension.bounds[end]] if dimension.choice is None else dimension.choice:
            yield from extend(found | {path: value}, paths[1:])

    yield from extend({}, ordered(space))


def apply(template: dict[str, Any], combination: Combination) -> dict[str, Any]:
    """A run's values with a combination laid over them, outer paths first. A component's method keeps the
    template's other settings of it, such as its learning rate. Raises ValueError where a path leads through a
    plain value.
    """
    values = copy.deepcopy(template)
    for path, value in sorted(combination.items(), key=lambda item: item[0].count(".")):
        *parents, last = path.split(".")
        inner = values
        for depth, parent in enumerate(parents, start=1):
            if inner.get(parent) is None:
                inner[parent] = {}
            elif isinstance(inner[parent], str) and parents[0] == "components":
                inner[parent] = {"method": inner[parent]}  # the short form
            inner = inner[parent]
            if not isinstance(inner, dict):
                raise ValueError(f"space.{path}: {'.'.join(parents[:depth])} has no fields")
        if (
            parents == ["components"]
            and isinstance(inner.get(last), dict)
            and isinstance(value, str | Mapping)
        ):
            inner[last] |= {"method": value} if isinstance(value, str) else value
        else:
            inner[last] = copy.deepcopy(value)
    return values


def within(space: Space, params: Combination) -> Combination:
    """The values with those of ranges brought back between their ends, which pbt's steps may leave."""
    found = dict(params)
    for path, value in params.items():
        if space[path].choice is None:
            low, high = space[path].bounds
            found[path] = min(max(value, low), high)
    return found
