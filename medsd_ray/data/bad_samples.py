"""The samples that cannot be used, as the user is told of them."""

from __future__ import annotations

import sys

from medsd_ray.errors import in_one_line

LISTED = 20
"""Bad samples, and odd ones, that have a line each; of a flood the rest is only counted."""


class BadSampleLog:
    """Lists bad samples on standard error while the work goes on.

    The first one waits for a second: where it stays alone, it is the line that the command ends with.
    """

    def __init__(self) -> None:
        self.count = 0
        self._lines: list[str] = []  # at most LISTED of them

    def add(self, line: str) -> None:
        """Counts a bad sample; `line` says where it is, and why it cannot be used."""
        self.count += 1
        if self.count > LISTED:
            if self.count == LISTED + 1:
                note(f"… more than {LISTED} bad samples; the rest is only counted")
            return
        self._lines.append(line)
        if self.count == 2:
            note(self._lines[0])
        if self.count >= 2:
            note(line)

    def only(self) -> str | None:
        """The line of the one bad sample; None where there are none or more."""
        return self._lines[0] if self.count == 1 else None

    def where_listed(self) -> str:
        """What to say after the number of bad samples: whether they were listed."""
        if self.count < 2:
            return ""
        return " (listed above)" if self.count <= LISTED else f" ({LISTED} of them listed above)"


class OddityLog:
    """Lists on standard error which files were odd, and how, while the work goes on."""

    def __init__(self) -> None:
        self._said = 0

    def add(self, line: str) -> None:
        """`line` says where it is and what is odd; of a flood the index has the number."""
        self._said += 1
        if self._said <= LISTED:
            note(f"warning: {line}")
        elif self._said == LISTED + 1:
            note(f"… more than {LISTED} such warnings; the rest is only counted")


def note(line: str) -> None:
    """Says what the user should know on standard error."""
    print(in_one_line(line), file=sys.stderr)
