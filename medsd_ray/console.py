"""How a verb shows what it does and how far it is: the one place that knows terminals from logs.

On a terminal a line with a spinner says what goes on, and work that is counted has a bar; both are replaced
in place (rich). Elsewhere, such as in a log, each is a plain line of its own.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from typing import TYPE_CHECKING, TextIO

from medsd_ray.errors import in_one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status
    from rich.text import Text

FIRST_AFTER_S = 1.0
IN_PLACE_EVERY_S = 0.5
LINE_EVERY_S = 5.0

_status: Status | None = None
"""What goes on, on a terminal; one at a time."""
_bars = 0
"""Bars that are shown now: lines go above them."""


@functools.cache
def _console(file: TextIO) -> Console:
    from rich.console import Console  # it takes longer than a log's first line needs

    return Console(file=file, highlight=False, markup=False, emoji=False)


def stage(text: str, file: TextIO | None = None) -> None:
    """Says what a verb begins to do, such as `starting Ray`. `file` is sys.stdout where absent; a verb whose
    output others read takes sys.stderr.
    """
    global _status
    stream: TextIO = sys.stdout if file is None else file
    text = f"{in_one_line(text)} ..."
    if not stream.isatty() or _bars:
        print(text, file=stream, flush=True)
    elif _status is None:
        _status = _console(stream).status(_plain(text))
        _status.start()
    else:
        _status.update(_plain(text))


def _plain(text: str) -> Text:
    from rich.text import Text

    return Text(text, overflow="ellipsis", no_wrap=True)


def clear() -> None:
    """Takes the line of `stage` off the terminal: a verb has ended, or shows something of its own."""
    global _status
    if _status is not None:
        _status.stop()
        _status = None


class Bar:
    """A bar with words beside it that is replaced in place, on a terminal."""

    def __init__(self, total: int):
        global _bars
        from rich.progress import BarColumn, Progress, TextColumn

        clear()
        _bars += 1
        self._shown = Progress(
            BarColumn(),
            TextColumn("{task.description}", markup=False),
            console=_console(sys.stdout),
            auto_refresh=False,
        )
        self._task = self._shown.add_task("", total=total)
        self._shown.start()

    def show(self, done: int, text: str) -> None:
        """Draws it anew."""
        self._shown.update(self._task, completed=done, description=text, refresh=True)

    def close(self) -> None:
        """Leaves it as it is."""
        global _bars
        self._shown.stop()
        _bars -= 1


class ProgressLine:
    """Says on standard output how far counted work is while its `with` block runs.

    On a terminal a bar is replaced in place; elsewhere a line is added every few seconds where something has
    changed. The first one comes after a second, even where nothing is done yet, and the last one at the end.
    A thread shows it, so that a slow step does not silence it.
    """

    def __init__(self, total: int, what: str):
        """`total` is the number of items, `what` their name, such as `images`, and after it what is done to
        them.
        """
        self.total, self.what = total, what
        self.done = 0
        self._made = 0  # of `done`, those of this process: the speed is theirs
        self._said = ""
        self._in_place = sys.stdout.isatty()
        self._bar: Bar | None = None
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress-line", daemon=True)

    def __enter__(self) -> ProgressLine:
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._made:
            self._say()
        if self._bar:
            self._bar.close()

    def skip(self, count: int) -> None:
        """Counts items that an earlier process has done."""
        self.done += count

    def add(self, count: int = 1) -> None:
        """Counts items that are done now."""
        self.done, self._made = self.done + count, self._made + count

    def _run(self) -> None:
        wait = FIRST_AFTER_S
        while not self._ended.wait(wait):
            self._say()
            wait = IN_PLACE_EVERY_S if self._in_place else LINE_EVERY_S

    def _say(self) -> None:
        text = self._text()
        if self._in_place:
            self._bar = self._bar or Bar(self.total)
            self._bar.show(self.done, text)
        elif text != self._said:
            print(text, flush=True)
        self._said = text

    def _text(self) -> str:
        count = f"{self.done}/{self.total} {self.what}"
        if not self._made:
            return count
        rate = self._made / max(time.monotonic() - self._started, 1e-9)
        speed = f"{rate:.2f}" if rate < 10 else f"{rate:.0f}"
        left = duration((self.total - self.done) / rate)
        return f"{count}, {speed} {self.what.split()[0]}/s, {left} left"


def duration(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"
