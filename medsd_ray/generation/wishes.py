"""What images are asked to show, as it is written: prompts, and the values of conditions beside them.

They come from a command line (`--prompt`, `--condition age=63`) or from a table, a row for a kind of image:

    prompt,conditions,count
    A chest x-ray.,age=63; sex=F,4
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medsd_ray.data.sources.near_names import near_name
from medsd_ray.data.sources.table import Row, read_table
from medsd_ray.errors import InputError
from medsd_ray.spec.conditions import ConditionSettings, number_of
from medsd_ray.spec.images import NUM_IMAGES

COLUMNS = ("prompt", "conditions", "count")

Values = dict[str, str | float]
"""Of numbers and categories, by the condition's name."""


@dataclass(frozen=True)
class Wish:
    """What one image, or several alike, are asked to show."""

    prompt: str
    conditions: Mapping[str, str] = field(default_factory=dict)
    """As they were written; see `values_of`."""
    where: str = "--condition"
    """For messages."""


def parse_pairs(pairs: Iterable[str], option: str) -> dict[str, str]:
    """NAME=VALUE, several times. Raises InputError for another form, or one name twice."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not (name and equals and value):
            raise InputError(f"{option} {pair.strip()[:80]!r}: write it as NAME=VALUE, such as age=63")
        if name in found:
            raise InputError(f"{option}: {name} is given twice; give it once")
        found[name] = value
    return found


def with_conditions(wishes: Sequence[Wish], pairs: Iterable[str]) -> list[Wish]:
    """The wishes, each with NAME=VALUE unless it says another. Raises InputError for another form."""
    common = parse_pairs(pairs, "--condition")
    return [replace(wish, conditions={**common, **wish.conditions}) for wish in wishes]


def parse_weights(pairs: Iterable[str]) -> dict[str, float]:
    """NAME=NUMBER, several times. Raises InputError for another form."""
    weights = {}
    for name, value in parse_pairs(pairs, "--weight").items():
        try:
            weights[name] = float(value)
        except ValueError as error:
            raise InputError(f"--weight {name}={value[:40]}: {value[:40]!r} is no number") from error
    return weights


def read_wishes(path: Path) -> list[Wish]:
    """A table of wishes, each as often as its `count` says. Raises InputError for another table."""
    table = read_table(path, path.parent)
    if "prompt" not in table.columns or set(table.columns) - set(COLUMNS):
        raise InputError(
            f"{path}: its columns are {', '.join(table.columns)}; a table of prompts has the column prompt, "
            "and may have conditions and count"
        )
    wishes = []
    for row in table.rows:
        if not isinstance(row, Row):
            raise InputError(f"{path}: {row}")
        if not (prompt := row.values["prompt"].strip()):
            raise InputError(f"{path}: {row.where}: no prompt")
        where = f"{path}: {row.where}"
        written = (one for one in row.values.get("conditions", "").split(";") if one.strip())
        wishes += [Wish(prompt, parse_pairs(written, where), where)] * _count(row, where)
        if len(wishes) > (NUM_IMAGES.highest or 0):
            raise InputError(f"{path}: more than {NUM_IMAGES.highest:,.0f} images; lower count")
    if not wishes:
        raise InputError(f"{path}: no row that asks for an image; write one below the header")
    return wishes


def _count(row: Row, where: str) -> int:
    text = row.values.get("count", "").strip() or "1"
    if not text.isascii() or not text.isdigit():
        raise InputError(f"{where}: count is {text[:40]!r}; write a whole number")
    return int(text)


def values_of(wish: Wish, settings: ConditionSettings | None, model: str) -> Values:
    """The values of a wish's conditions, as the model takes them.

    Raises InputError for a condition that the model does not know, a mask, and a value out of range or of no
    category that it knows.
    """
    if settings is None:
        if wish.conditions:
            raise InputError(f"{wish.where}: {model} knows no conditions; leave {min(wish.conditions)} out")
        return {}
    values: Values = {}
    for name, written in wish.conditions.items():
        if name not in settings.conditions:
            raise unknown_condition(wish.where, name, settings, model)
        condition = settings.conditions[name]
        if condition.kind == "mask":
            raise InputError(f"{wish.where}: {name} is a mask; give it by --masks")
        if condition.kind == "number":
            try:
                values[name] = number_of(condition, written)
            except ValueError as error:
                raise InputError(f"{wish.where}: {name}: {error}") from error
        elif written in condition.values:
            values[name] = written
        else:
            near = near_name(written, condition.values)
            hint = f"did you mean {near}?" if near else f"it can be {_some(condition.values)}"
            raise InputError(f"{wish.where}: {name} cannot be {written[:40]!r}; {hint}")
    return values


def unknown_condition(where: str, name: str, settings: ConditionSettings, model: str) -> InputError:
    """What to raise for a condition that the model does not know."""
    near = near_name(name, settings.conditions)
    known = ", ".join(f"{known} ({one.kind})" for known, one in sorted(settings.conditions.items()))
    hint = f"; did you mean {near}?" if near else ""
    return InputError(f"{where}: {model} knows no condition {name[:40]!r}{hint} It knows {known}")


def _some(values: Sequence[str]) -> str:
    return ", ".join(values[:20]) + (f" and {len(values) - 20} more" if len(values) > 20 else "")
