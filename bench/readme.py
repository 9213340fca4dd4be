"""Writes the tables of bench/README.md from bench/results: `python bench/readme.py`; with --check it says
whether they are so.

A table stands between `<!-- NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
import sys

from common import RESULTS, ROOT, Row, shown

PATH = ROOT / "bench" / "README.md"
WORDS = {None: "", True: "yes", False: "**no**"}


def table(rows: list[Row]) -> str:
    lines = ["| | ours | peer | | ratio | goal | met |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        device = "GPU: " if row["device"].startswith("cuda") else ""
        measured = row["ours"] is not None
        ours, peer, ratio = (shown(row[key]) if measured else "" for key in ("ours", "peer", "ratio"))
        ours = ours if measured else "not yet measured"
        goal = row["goal"] if isinstance(row["goal"], str) else ""
        cells = (f"{device}{row['name']}", ours, peer, row["unit"], ratio, goal, WORDS[row["met"]])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def conditions(rows: list[Row]) -> str:
    """The machine and the versions of the newest measured row, and the loads of all."""
    measured = [row for row in rows if row["ours"] is not None]
    if not measured:
        return "Not yet measured."
    names = (
        "medsd",
        "python",
        "torch",
        "ray",
        "deepspeed",
        "diffusers",
        "accelerate",
        "transformers",
        "torchmetrics",
    )
    known = {name: text for row in measured for name, text in row["versions"].items() if name in names}
    loads = sorted({row["versions"]["load average"] for row in measured if "load average" in row["versions"]})
    versions = ", ".join(f"{name} {known[name]}" for name in names if name in known)
    machines = "; ".join(sorted({row["device"] for row in measured}))
    return f"On: {machines}. {versions}." + (
        f" Load average during the runs: {'; '.join(loads)}." if loads else ""
    )


def filled(text: str) -> str:
    def block(match: re.Match[str]) -> str:
        path = RESULTS / f"{match[1]}.json"
        rows = json.loads(path.read_text()) if path.is_file() else []
        inside = f"{table(rows)}\n\n{conditions(rows)}" if rows else "Not yet measured."
        return f"<!-- {match[1]} -->\n{inside}\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", block, text, flags=re.DOTALL)


def main() -> None:
    text = PATH.read_text()
    if "--check" in sys.argv:
        sys.exit(
            0
            if filled(text) == text
            else "bench/README.md: its tables are not those of bench/results; run bench/readme.py"
        )
    PATH.write_text(filled(text))


if __name__ == "__main__":
    main()
