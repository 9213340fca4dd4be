"""Specs as a page shows them: values in short, what differs between two, and a run to start again."""

from __future__ import annotations

import json
from typing import Any

from medsd_ray.documents import DocumentError, parse_yaml, to_yaml


def label(value: Any) -> Any:
    """A value of a search space in short: numbers and plain words as they are, a component by its method and
    settings.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, dict) and isinstance(value.get("method"), str):
        settings = {name: inner for name, inner in value.items() if name != "method" and inner is not None}
        return " ".join([value["method"], *(_setting(name, inner) for name, inner in settings.items())])
    return _short(value)


def _setting(name: str, value: Any) -> str:
    """`{"tokens": [{"token": "<effusion>", ...}]}` -> `<effusion>`; `{"swap": {"model": "org/radbert"}}` ->
    `org/radbert`.
    """
    if isinstance(value, list) and value and all(isinstance(one, dict) and "token" in one for one in value):
        return " ".join(str(one["token"]) for one in value)
    if isinstance(value, dict) and isinstance(value.get("model"), str):
        return value["model"]
    return f"{name}={_short(value)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= 80 else text[:79] + "…"


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`; lists stay whole."""
    if isinstance(value, dict) and value:
        return {
            key: inner
            for name, one in value.items()
            for key, inner in flatten(one, f"{path}.{name}" if path else str(name)).items()
        }
    return {path: value}


def difference(a: Any, b: Any) -> list[dict[str, Any]]:
    """Where two specs differ: `{"field", "a", "b"}` in order of the field; a side that lacks the field has
    null.
    """
    left, right = flatten(a), flatten(b)
    fields = [
        field
        for field in {**left, **right}
        if left.get(field) != right.get(field) or (field in left) != (field in right)
    ]
    return [{"field": field, "a": _text(left, field), "b": _text(right, field)} for field in sorted(fields)]


def _text(values: dict[str, Any], field: str) -> str | None:
    if field not in values:
        return None
    value = values[field]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_spec(data: bytes) -> dict[str, Any] | None:
    """A run.yaml as plain values; None where it is none."""
    try:
        values = parse_yaml(data)
    except DocumentError:
        return None
    return values if isinstance(values, dict) else None


def as_run_yaml(spec: dict[str, Any]) -> str:
    """The spec as a RUN.yaml to start anew: its output, which holds this run already, becomes a folder beside
    it.
    """
    output = spec.get("output")
    again = spec | ({"output": f"{output.rstrip('/')}-again"} if isinstance(output, str) else {})
    return to_yaml(again)
