"""Figures, tables and pictures as people and files have them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image


def dumps(report: dict) -> bytes:
    """The report as strict JSON (no NaN)."""
    return (json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def csv_bytes(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A table as CSV with a header, UTF-8; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()


def png_bytes(picture: np.ndarray | Image.Image, **options: Any) -> bytes:
    """A PNG without metadata of a picture, (H, W) or (H, W, 3) uint8; `options` are Pillow's for PNG."""
    buffer = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def number(value: Any, digits: int = 3) -> str:
    """A figure for people: three significant digits, thousands apart, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    if isinstance(value, float):
        if value and abs(value) < 10 ** -(digits + 1):
            return f"{value:.{digits - 1}e}"
        whole = len(str(int(abs(value))))
        return f"{value:,.{max(0, digits - whole) if abs(value) >= 1 else digits}f}".replace(",", " ")
    return str(value)


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def span(interval: list[float] | None, form=number) -> str:
    return "" if not interval else f"{form(interval[0])} to {form(interval[1])}"


def interval_words(section: Mapping[str, Any], name: str, form=number, before: str = "") -> str:
    """What stands beside a figure that `estimates.put` wrote: its interval (`before` it these words) and how
    it was found, where that is not as usual; else why it has none.
    """
    if interval := section.get(f"{name}_interval"):
        method = section.get(f"{name}_interval_method")
        return f"{before}{span(interval, form)}" + (f", {method}" if method else "")
    why = section.get(f"{name}_interval_reason")
    return f"no interval, {why}" if why else ""


FORMS = {"number": number, "percent": percent}
"""How a figure is written, by the name that pages have for it."""


def figure_line(section: Mapping[str, Any], name: str, called: str, form: str) -> str:
    """A figure that `estimates.put` wrote as a line for the terminal: its value with its interval, or why it
    has none.
    """
    value = section[name]
    if value is None:
        beside = f"not computed: {section[f'{name}_reason']}"
    else:
        beside = interval_words(section, name, FORMS[form], "95%: ")
    return f"{called:<32}{FORMS[form](value):>8}  {beside}".rstrip()


def words(name: str) -> str:
    """`images_per_second` -> `Images per second`."""
    text = str(name).replace("_", " ")
    return text[:1].upper() + text[1:]
