"""The long campaign: `make fuzz MINUTES=30 [SEED=1]`, or `make fuzz REPLAY=FOLDER` for one kept input."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from fuzz.campaign import FAMILIES, readers, run_family
from fuzz.children import run_in_child
from fuzz.figures import table


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
