"""`medsd paper`: the steps of a paper's experiment, each a verb in a process of its own, and one page of what
they say of its claims.

Every verb finds out itself what is done already, so that the same command goes on where an earlier one was
stopped.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medsd_ray.console import duration
from medsd_ray.errors import InputError, Interrupted, RunError
from medsd_ray.evaluation.estimates import Missing
from medsd_ray.evaluation.versions import versions
from medsd_ray.papers import page
from medsd_ray.papers.measured import Measured, measure
from medsd_ray.papers.verdict import difference, verdict
from medsd_ray.runs.names import PAPER, PAPER_BEGUN, PAPER_PAGE
from medsd_ray.spec.paper import Claim, Expected, PaperSpec, Size
from medsd_ray.spec.values import describe_errors, read_values
from medsd_ray.storage import Storage, open_storage
from medsd_ray.storage.outputs import Foreign, claim
from medsd_ray.times import now

MEDSD = Path(sys.executable).with_name("medsd")
FORMAT = "medsd-paper/1"


def load_paper(path: Path) -> PaperSpec:
    """Reads a NAME.steps.yaml. Raises InputError with every wrong field, one line."""
    values = read_values(
        path, "NAME.steps.yaml", "a paper is a mapping with title, link, settings, steps and claims"
    )
    try:
        return PaperSpec.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{path}: {describe_errors(error, PaperSpec, 'a paper')}") from error


def run_paper(file: Path, out: Path, size: Size, data: Path | None) -> dict[str, Any]:
    """Runs the steps in `out`, and writes paper.json and paper.html there.

    Raises:
        InputError: The file or `data` is wrong, or `out` holds something else.
        RunError: A step failed.
        Interrupted: A step was stopped; the same call goes on.
    """
    paper = load_paper(file)
    if data is not None and not data.is_dir():
        raise InputError(f"{data}: no such folder; give one with images and metadata.csv")
    given = {"here": str(file.resolve().parent)} | ({"data": str(data.resolve())} if data else {})
    commands = paper.commands(size, given)
    store, settings = open_storage(str(out)), {"size": size, "commands": commands}
    found = claim(store, settings, PAPER_BEGUN)
    if isinstance(found, Foreign):
        what = "another experiment" if found.record else "other files"
        raise InputError(f"{out}: holds {what}; choose another --out or remove this one")
    store.write_json(PAPER_BEGUN, settings)
    seconds = [_run(words, out, f"{n} of {len(commands)}") for n, words in enumerate(commands, start=1)]
    record = {
        "format": FORMAT,
        "title": paper.title,
        "citation": paper.citation,
        "link": paper.link,
        "read": paper.read,
        "inferred": paper.inferred,
        "size": size,
        "data": "the images of " + data.name if data else "drawn phantoms",
        "settings": paper.settings[size],
        "steps": [
            {"command": _shown(words, given), "seconds": took}
            for words, took in zip(commands, seconds, strict=True)
        ],
        "claims": [judged(store, one, size) for one in paper.claims_of(size)],
        "versions": versions(),
        "created": now(),
    }
    store.write_json(PAPER, record)
    store.write(PAPER_PAGE, page.render(record, page.pages_below(out)))
    print(page.markdown(record))
    print(f"{out / PAPER_PAGE}: the page; {PAPER}: the same figures")
    return record


def judged(store: Storage, one: Claim, size: Size) -> dict[str, Any]:
    """A claim with what was measured, as paper.json has it."""
    other: Expected = "lower" if one.expected == "higher" else "higher"
    of = measure(store, one.of, one.expected)
    than = measure(store, one.than, other)
    row: dict[str, Any] = {
        "claim": one.claim,
        "reported": one.reported,
        "expected": one.expected,
        "figure": one.of.figure,
        "of": _told(of),
        "than": _told(than),
        "difference": None,
        "verdict": verdict(of, than, one.expected, size),
    }
    if isinstance(of, Measured) and isinstance(than, Measured):
        value, interval, method = difference(of, than)
        row |= {"difference": value, "difference_interval": interval, "difference_interval_method": method}
    return row


def _told(found: Measured | Missing) -> dict[str, Any]:
    if isinstance(found, Missing):
        return {"value": None, "value_reason": str(found), "of": ""}
    return {
        "value": found.value,
        "value_interval": found.interval,
        "of": found.of,
        "by_seed": {str(seed): value for seed, value in found.by_seed.items()},
        "count": found.count,
    }


def _run(words: Sequence[str], out: Path, which: str) -> float:
    """Runs one verb in `out`; its seconds."""
    print(f"--- step {which}: medsd {shlex.join(words)}", flush=True)
    began = time.monotonic()
    # A session of its own: a terminal's Ctrl-C would reach it beside the signal that is sent below, and a
    # second one ends a verb without its checkpoint.
    child = subprocess.Popen(
        [str(MEDSD), *words], cwd=out, env=os.environ | {"PYTHONUNBUFFERED": "1"}, start_new_session=True
    )
    try:
        code = child.wait()
    except KeyboardInterrupt:
        child.send_signal(signal.SIGINT)
        child.wait()
        raise Interrupted(f"step {which} ended; the same command goes on") from None
    if code == 130:
        raise Interrupted(f"step {which} was stopped; the same command goes on")
    if code:
        raise RunError(f"step {which}, medsd {words[0]}, ended with exit code {code}; its last line says why")
    took = time.monotonic() - began
    print(f"--- step {which}: {duration(took)}", flush=True)
    return round(took, 1)


def _shown(words: Sequence[str], given: dict[str, str]) -> str:
    """The command for the page: without where this machine keeps its files."""
    line = "medsd " + shlex.join(words)
    for name, path in given.items():
        line = line.replace(path, {"here": "tuning", "data": "DATA"}[name])
    return line
