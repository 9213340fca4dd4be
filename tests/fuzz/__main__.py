"""The long campaign: `make fuzz MINUTES=30 [SEED=1]`, or `make fuzz REPLAY=FOLDER` for one kept input."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from fuzz.campaign import FAMILIES, Campaign, readers
from fuzz.children import run_in_child
from fuzz.figures import Figures, table

BATCH = 100
"""Cases of a reader before the next one's turn."""
SAID_EVERY_S = 5.0


def main() -> int:
    """Returns 1 where there is a fault."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=Path, default=Path("fuzz-faults"), help="keeps inputs that fail")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--replay", type=Path, help="a kept input")
    words = parser.parse_args()
    if words.replay:
        return replay(words.replay)
    families = words.families.split(",")
    processes = min(os.cpu_count() or 1, len(families))
    seconds = words.minutes * 60 * processes / len(families)
    print(
        f"{len(families)} families of readers, {seconds:.0f} s each, {processes} at a time, seed {words.seed}"
    )
    context = multiprocessing.get_context("spawn")  # a family's imports are its own
    with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=1) as pool:
        tasks = [
            pool.submit(run_family, one, seconds, words.seed, words.faults.resolve()) for one in families
        ]
        found = [figures for task in tasks for figures in task.result()]
    print(table(found))
    for line in (faults := [line for one in found for line in one.faults]):
        print(line)
    return int(bool(faults))


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


def replay(folder: Path) -> int:
    """Runs one kept input in a child and shows what became of it; then here, for its traceback."""
    name = folder.name.rpartition("-")[0]
    for family in FAMILIES:
        for reader in readers(family):
            if reader.name.replace(" ", "-") == name:
                outcome = run_in_child(reader.read, folder.resolve())
                print(f"{reader.name}: {outcome}")
                if outcome.kind in ("traceback", "wrong"):
                    reader.read(folder.resolve())
                return int(outcome.is_fault)
    print(f"{folder}: its name is not that of a reader and a fault", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
