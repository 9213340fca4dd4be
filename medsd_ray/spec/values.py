"""How RUN.yaml and STUDY.yaml become plain values, and how a wrong field is said in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from medsd_ray.errors import InputError


def read_values(
    path: str | Path, kind: str, shape: str, overrides: list[str] | None = None
) -> dict[str, Any]:
    """The mapping in a YAML file, with `a.b=value` overrides laid over it. `kind` is what such a file is
    called, `shape` says what it must be. Raises InputError.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give the path of a {kind}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file; give the path of a {kind}") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: {shape}")
    for override in overrides or []:
        set_value(values, override)
    return values


def set_value(values: dict[str, Any], override: str) -> None:
    """Lays `a.b=value`, whose value is YAML, over the values. Raises InputError where it is not of this form."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise InputError(f"--set {override!r}: write it as training.zero_stage=2")
    *parents, last = path.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(
            inner, dict
        ):  # the short form `unet: full` meets `--set components.unet.learning_rate=…`
            inner = values[parent] = {"method": inner}
        values = inner
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {override!r}: the value is not YAML") from error


def in_words(error: ValidationError, what: str = "run") -> str:
    """Every wrong field, in one line."""
    return "; ".join(_one_in_words(one, what) for one in error.errors())


def _one_in_words(error: Any, what: str) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{where} is not a field of a {what}; remove it or mend its spelling"
    if error["type"] == "missing":
        return f"{where} is missing"
    message = re.sub(r"<Method\.\w+: ('\w+')>", r"\1", error["msg"].removeprefix("Value error, "))
    return f"{where}: {message}" if where else message
