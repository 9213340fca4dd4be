"""The ways a command ends other than well; `cli.main` turns each into its exit code."""

LONGEST_LINE = 4000
"""Characters of a message; one that names every wrong field of a long spec has as many."""


def in_one_line(text: str) -> str:
    """The text with spaces in place of line breaks, and its control characters escaped; where it is longer
    than LONGEST_LINE, its midst is left out.

    What a message quotes of a library or a file, such as a column's name, neither breaks its line nor
    commands a terminal.
    """
    text = " ".join(text.split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    half = LONGEST_LINE // 2
    return line if len(line) <= LONGEST_LINE else f"{line[: half - 2]} … {line[1 - half :]}"


class OneLineError(Exception):
    """Its text is one line, whatever it quotes."""

    def __str__(self) -> str:
        return in_one_line(super().__str__())


class InputError(OneLineError):
    """Something from outside is wrong. One line: what, where, and how to mend it. Exit code 2."""


class RefusedError(InputError):
    """A store refuses what it would refuse again: it is full or read-only, or does not permit it."""


class UnreachableError(InputError):
    """Nobody answers at the address of a store: it may be wrong, or the store away for a moment."""


class RunError(OneLineError):
    """The work failed while it ran, for a reason that is not in the input. Exit code 1."""


class Interrupted(Exception):
    """Stopped by Ctrl-C or SIGTERM, after a checkpoint. Exit code 130."""
