"""What a campaign counts, and its table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from fuzz.children import Outcome

COLUMNS = ("cases", "taken", "refused", "traceback", "crash", "hang", "memory", "wrong")


@dataclass
class Figures:
    """Of one reader."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    growth: int = 0
    """Bytes that a child took beyond its start, at most."""
    faults: list[str] = field(default_factory=list)
    """Each different fault, with the command that replays it."""

    def count(self, outcome: Outcome) -> None:
        self.counts.update(["cases", outcome.kind])
        self.growth = max(self.growth, outcome.growth)

    @property
    def cells(self) -> list[str]:
        return [self.name, *(f"{self.counts[name]:,}" for name in COLUMNS), f"{self.growth / 2**20:,.0f}"]


def table(all_figures: Iterable[Figures]) -> str:
    """In Markdown, as docs/reliability.md has it."""
    listed = list(all_figures)
    total = Figures("all")
    for one in listed:
        total.counts.update(one.counts)
        total.growth = max(total.growth, one.growth)
    head = ["reader", *COLUMNS, "memory peak, MiB"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *(one.cells for one in [*listed, total])]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
