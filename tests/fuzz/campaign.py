"""Cases drawn by Hypothesis, the children that run them, and what is kept of those that are faults."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from fuzz.children import Outcome, run_in_child
from fuzz.figures import Figures
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

FAMILIES = ("documents", "images", "tables", "sets", "pages", "stores", "shards", "models")
"""The modules of readers, those with light imports first: children of a small process are forked fast."""
Files = dict[str, bytes]
"""A case: name below a folder -> bytes."""
BATCH = 100
"""Cases of a reader before the next one's turn."""
SAID_EVERY_S = 5.0


@dataclass(frozen=True)
class Reader:
    """Something in medsd that reads what comes from outside."""

    name: str
    inputs: SearchStrategy[Files]
    """Valid and damaged inputs, and odd ones."""
    read: Callable[[Path], None]
    """Reads the files of a case, in a child (`children.run_in_child`)."""
    cases: int = 40
    """In the short run."""


def readers(family: str) -> list[Reader]:
    return import_module(f"fuzz.{family}").READERS


@contextmanager
def written(files: Files) -> Iterator[Path]:
    """A case as a folder, in a temporary one that the case may fill."""
    parent = Path(tempfile.mkdtemp(prefix="medsd-fuzz-"))
    try:
        folder = parent / "case"
        folder.mkdir()
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        yield folder
    finally:
        shutil.rmtree(parent, ignore_errors=True)


@dataclass
class Campaign:
    """Runs cases of one reader and counts them."""

    reader: Reader
    faults_folder: Path
    """Where the input of each different fault is kept."""
    figures: Figures = field(init=False)
    _kept: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.figures = Figures(self.reader.name)

    def run(self, number: int, cases: int, until: float = float("inf")) -> None:
        """`cases` cases, which follow from `number`; none is begun after the time `until` (monotonic)."""

        # Faults do not end the run, so there is nothing to shrink: the mutations are few, the seeds small.
        @seed(number)
        @settings(
            max_examples=cases,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(self.reader.inputs)
        def case(files: Files) -> None:
            if time.monotonic() < until:
                self._count(files)

        case()

    def _count(self, files: Files) -> None:
        with written(files) as folder:
            outcome = run_in_child(self.reader.read, folder)
            self.figures.count(outcome)
            if outcome.is_fault:
                self._keep(folder, outcome)

    def _keep(self, folder: Path, outcome: Outcome) -> None:
        """Copies the input of a fault that was not seen before."""
        what = f"{outcome.kind} {outcome.place} {outcome.said.partition(':')[0] if outcome.place else ''}"
        if what in self._kept:
            return
        self._kept.add(what)
        name = f"{self.reader.name.replace(' ', '-')}-{hashlib.sha256(what.encode()).hexdigest()[:8]}"
        kept = self.faults_folder / name
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder, kept, symlinks=True)
        said = f"{outcome.kind} in {outcome.place or 'the child'}: {outcome.said}"
        self.figures.faults.append(f"{self.reader.name}: {said}\n    make fuzz REPLAY={kept}")


def run_family(family: str, seconds: float, seed: int, faults: Path) -> list[Figures]:
    """Runs a family's readers by turns, and says every few seconds how far they are."""
    campaigns = [Campaign(reader, faults) for reader in readers(family)]
    until = time.monotonic() + seconds
    said, turn = time.monotonic(), seed * 1_000_000
    while time.monotonic() < until:
        turn += 1
        for campaign in campaigns:
            campaign.run(turn, BATCH, until)
            if time.monotonic() - said > SAID_EVERY_S:
                said = time.monotonic()
                counts = [sum(one.figures.counts[name] for one in campaigns) for name in ("cases", "refused")]
                failed = sum(len(one.figures.faults) for one in campaigns)
                print(
                    f"{family}: {counts[0]:,} cases, {counts[1]:,} refused, {failed} different faults; "
                    f"{max(0, until - said):.0f} s left",
                    flush=True,
                )
    return [campaign.figures for campaign in campaigns]
