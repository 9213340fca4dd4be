"""How far long work is, on the terminal: a count, the speed and the time left."""

from __future__ import annotations

import sys
import threading
import time

FIRST_AFTER_S = 1.0
IN_PLACE_EVERY_S = 0.5
LINE_EVERY_S = 5.0


class ProgressLine:
    """Says on standard output how far work is while its `with` block runs.

    On a terminal one line is replaced in place; elsewhere, such as in a log, a line is added every few
    seconds where something has changed. The first one comes after a second, even where nothing is done yet,
    and the last one at the end. A thread prints, so that a slow step does not silence it.
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
            self._say(end="\n")
        elif self._said and self._in_place:
            print(flush=True)

    def skip(self, count: int) -> None:
        """Counts items that an earlier process has done."""
        self.done += count

    def add(self, count: int = 1) -> None:
        """Counts items that are done now."""
        self.done, self._made = self.done + count, self._made + count

    def _run(self) -> None:
        wait = FIRST_AFTER_S
        while not self._ended.wait(wait):
            self._say(end="" if self._in_place else "\n")
            wait = IN_PLACE_EVERY_S if self._in_place else LINE_EVERY_S

    def _say(self, end: str) -> None:
        text = self._text()
        if self._in_place:
            print(f"\r\033[K{text}", end=end, flush=True)
        elif text != self._said:
            print(text, end=end, flush=True)
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
