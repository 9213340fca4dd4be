"""How a YAML file becomes plain values, and how a wrong field is said in words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from medsd_ray.documents import MOST_YAML_BYTES, DocumentError, parse_yaml
from medsd_ray.errors import InputError


def read_values(
    path: str | Path, kind: str, shape: str, overrides: list[str] | None = None
) -> dict[str, Any]:
    """The mapping in a YAML file, with `a.b=value` overrides laid over it.

    Args:
        path: The file.
        kind: What such a file is called, such as RUN.yaml.
        shape: What is said of a file that holds no mapping: what it must be.
        overrides: In order, each as `set_value` takes it.

    Raises:
        InputError: The file cannot be read or is no mapping in YAML, or an override has another form.
    """
    try:
        with Path(path).open("rb") as file:
            values = parse_yaml(file.read(MOST_YAML_BYTES + 1))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give the path of a {kind}") from error
    except DocumentError as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: {shape}")
    for override in overrides or []:
        set_value(values, override)
    return values


def set_value(values: dict[str, Any], override: str) -> None:
    """Lays `a.b=value`, whose value is YAML, over the values. Raises InputError where it has another form."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise InputError(f"--set {override!r}: write it as training.zero_stage=2")
    *parents, last = path.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(
            inner, dict
        ):  # the short form, where `unet: full` meets components.unet.learning_rate
            inner = values[parent] = {"method": inner}
        values = inner
    try:
        values[last] = parse_yaml(text)
    except DocumentError as error:
        raise InputError(f"--set {override[:80]!r}: the value is {error}") from error


def describe_errors(
    error: ValidationError,
    model: type[BaseModel],
    kind: str,
    place: Callable[[ErrorDetails], str] | None = None,
) -> str:
    """Every wrong field, in one line.

    Args:
        error: What pydantic found.
        model: What it checked, whose fields are suggested for one that is not known.
        kind: What the fields belong to, such as `a run`.
        place: Names the place of one error; by default the path of its field, such as training.max_steps.

    Returns:
        Such as "training.max_steps: Input should be greater than 0; data.train is missing".
    """
    return "; ".join(
        _describe_error(details, model, kind, place or dotted_path) for details in error.errors()
    )


def dotted_path(details: ErrorDetails) -> str:
    """The path of the field that an error is about, such as training.max_steps; empty for the whole."""
    return ".".join(map(str, details["loc"]))


def _describe_error(
    details: ErrorDetails, model: type[BaseModel], kind: str, place: Callable[[ErrorDetails], str]
) -> str:
    where = place(details)
    if details["type"] == "extra_forbidden":
        *parents, name = details["loc"]
        near = difflib.get_close_matches(str(name), _fields(model, parents), n=1)
        mend = f"did you mean {near[0]}?" if near else "remove it or mend its spelling"
        return f"{where} is not a field of {kind}; {mend}"
    if details["type"] == "missing":
        return f"{where} is missing"
    message = details["msg"].removeprefix("Value error, ")
    message = re.sub(
        r"<Method\.\w+: ('\w+')>", r"\1", message
    )  # pydantic shows a StrEnum's members as Python does
    return f"{where}: {message}" if where else message


def _fields(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The names of the fields at a path, such as those of `training`."""
    models = [model]
    for part in path:
        # A key of a mapping, or a place in a list, is no field: what it holds was found with its parent.
        inner = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        models = [found for annotation in inner for found in _models(annotation)] or models
    return [name for one in models for name in one.model_fields]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type speaks of, such as those of a list or of a field that may be null."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
