"""The ways a command ends other than well; `cli.main` turns each into its exit code."""


class InputError(Exception):
    """Something from outside is wrong. One line: what, where, and how to mend it. Exit code 2."""


class RefusedError(InputError):
    """A store refuses what it would refuse again: it is full or read-only, or does not permit it."""


class UnreachableError(InputError):
    """Nobody answers at the address of a store: it may be wrong, or the store away for a moment."""


class RunError(Exception):
    """The work failed while it ran, for a reason that is not in the input. Exit code 1."""


class Interrupted(Exception):
    """Stopped by Ctrl-C or SIGTERM, after a checkpoint. Exit code 130."""
