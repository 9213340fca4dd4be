"""Each case in a child of its own, forked after the imports, within limits of time and memory."""

from __future__ import annotations

import faulthandler
import io
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from medsd_ray.data.bad_samples import note
from medsd_ray.data.sources.source import BadSample
from medsd_ray.errors import LONGEST_LINE, InputError, RunError

SECONDS = 20.0
"""That a case may take."""
GROWTH = 2**30
"""Bytes that a case may take beyond what the child has at its start."""
SPARE = 2**30
"""Bytes of address space beyond that: stacks and arenas of threads, which take no memory."""
FAULTS = ("traceback", "crash", "hang", "memory", "wrong")
REFUSALS = (InputError, BadSample, RunError)


class Wrong(Exception):
    """A reader took what it should not have, or made of it what it is not."""


def holds(condition: object, what: str) -> None:
    """Raises Wrong, with what should have held, where it does not."""
    if not condition:
        raise Wrong(what)


def one_line(text: str) -> None:
    """Raises Wrong where a message is not one line in words."""
    holds(
        text and len(text.splitlines()) == 1 and text.isprintable(), f"a message of one line: {text!r:.300}"
    )
    holds(len(text) <= LONGEST_LINE, f"a message of {len(text)} characters: {text!r:.300}")


def shown(said: list[str]) -> list[str]:
    """The lines of standard error that the user sees of these. Raises Wrong where one is not one line."""
    with redirect_stderr(io.StringIO()) as stream:
        for text in said:
            note(text)
    lines = stream.getvalue().split("\n")[:-1]
    holds(len(lines) == len(said), f"a line each: {said}")
    for line in lines:
        one_line(line)
    return lines


@dataclass(frozen=True)
class Outcome:
    """How a case ended."""

    kind: str
    """`taken`, `refused`, or one of FAULTS: `traceback` (an exception that is no refusal), `crash` (a
    signal), `hang`, `memory`, `wrong` (taken though damaged, or refused in more than one line).
    """
    said: str = ""
    """The refusal, or what was wrong."""
    place: str = ""
    """Where: the innermost function of medsd_ray, so that equal faults are told once."""
    growth: int = 0
    """Bytes that the child took beyond its start, at most."""

    @property
    def is_fault(self) -> bool:
        return self.kind in FAULTS


def run_in_child(read: Callable[[Path], None], folder: Path) -> Outcome:
    """What becomes of `read(folder)` in a forked child. `read` returns where it took the input and what it
    asserts holds; it raises a refusal, Wrong, or whatever else is a fault.
    """
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        _be_child(read, folder, send)
    os.close(send)
    try:
        return _watched(child, receive)
    finally:
        os.close(receive)


def _be_child(read: Callable[[Path], None], folder: Path, send: int) -> None:
    """Never returns."""
    outcome = Outcome("traceback", "the child ended before its case")
    try:
        faulthandler.disable()  # pytest's, of a child that crashes
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silence, stream)
        start = _memory("self")
        most = start["VmSize"] + GROWTH + SPARE
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.environ["TMPDIR"] = str(folder.parent)
        kind, said, place = _outcome(read, folder)
        end = _memory("self")
        mapped = max(
            0, end["RssFile"] - start["RssFile"]
        )  # pages of libraries and of files, which are shared
        growth = max(0, end["VmHWM"] - start["VmRSS"] - mapped)
        outcome = Outcome("memory" if growth > GROWTH and kind != "wrong" else kind, said, place, growth)
    finally:
        with suppress(OSError):
            os.write(send, json.dumps(asdict(outcome)).encode())
        os._exit(0)


def _outcome(read: Callable[[Path], None], folder: Path) -> tuple[str, str, str]:
    """(kind, said, place)."""
    try:
        read(folder)
        return "taken", "", ""
    except BaseException as error:
        place = _innermost(error)
        if isinstance(error, MemoryError) or any(isinstance(one, MemoryError) for one in _causes(error)):
            return "memory", f"{type(error).__name__}: {error}"[:500], place
        if isinstance(error, Wrong):
            return "wrong", str(error)[:500], place
        if not isinstance(error, REFUSALS):
            return "traceback", f"{type(error).__name__}: {error}"[:500], place
        try:
            one_line(str(error))
        except Wrong as wrong:
            return "wrong", str(wrong), place
        return "refused", str(error), place


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    while (cause := error.__cause__ or error.__context__) and cause not in found:
        found.append(error := cause)
    return found


def _innermost(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "medsd_ray" in frame.filename] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].name}" if own else ""


def _watched(child: int, receive: int) -> Outcome:
    """Waits for the child's outcome, and ends it at the limits."""
    started, start, parts = time.monotonic(), _memory(child).get("RssAnon", 0), []
    verdict = None
    while verdict is None:
        wait = 0.1
        if select.select([receive], [], [], wait)[0]:
            if not (part := os.read(receive, 2**16)):
                break
            parts.append(part)
        elif time.monotonic() - started > SECONDS:
            verdict = Outcome("hang", f"longer than {SECONDS:g} s")
        elif (grown := _memory(child).get("RssAnon", 0) - start) > GROWTH:
            verdict = Outcome("memory", f"more than {GROWTH:,} bytes", growth=grown)
    if verdict:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if verdict:
        return verdict
    if os.WIFSIGNALED(status) or not parts:
        return Outcome("crash", f"signal {status & 127}")
    return Outcome(**json.loads(b"".join(parts)))


def _memory(process: int | str) -> dict[str, int]:
    """Of a process, in bytes: VmSize, VmHWM, VmRSS, RssAnon, RssFile; empty where it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":") for line in lines if line.startswith(("VmSize", "VmHWM", "VmRSS", "Rss")))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


if sys.platform != "linux":
    raise ImportError("the limits of a case are Linux's")
