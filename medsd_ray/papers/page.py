"""paper.html, and the same table in Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medsd_ray.evaluation.report.format import interval_words, number
from medsd_ray.evaluation.report.template import render_template
from medsd_ray.runs.names import REPORT_PAGE, STUDY_TABLE


def render(record: dict[str, Any], pages: list[str]) -> bytes:
    """The page. `pages` are the reports and tables of the steps, relative to it."""
    return render_template("medsd_ray.evaluation.report", "paper.html.j2", paper=record, pages=pages)


def pages_below(out: Path) -> list[str]:
    """The pages that the steps left in the output, a trial's own aside."""
    found = [path.relative_to(out) for name in (REPORT_PAGE, STUDY_TABLE) for path in out.rglob(name)]
    return sorted(str(path) for path in found if "trials" not in path.parts)


def markdown(record: dict[str, Any]) -> str:
    """The claims as a table for documents and the terminal."""
    lines = [
        "| claim | the paper | here | difference | verdict |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in record["claims"]:
        here = f"{_value(row['of'])} against {_value(row['than'])} ({row['figure']})"
        beside = interval_words(row, "difference")
        gap = number(row["difference"]) + (f" ({beside})" if beside else "")
        cells = (row["claim"], row["reported"], here, gap, row["verdict"])
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines)


def _value(one: dict[str, Any]) -> str:
    if one["value"] is None:
        return f"not measured: {one['value_reason']}"
    of = f" [{one['of']}]" if one["of"] and one["of"] != "a fixed number" else ""
    return f"{number(one['value'])}{of}"
