"""What is said of a run whose files are not all whole, while its work goes on with the rest."""

from __future__ import annotations

import functools
import sys


@functools.cache
def warn_once(text: str) -> None:
    """Says a warning on standard error, the first time that it is given in this process."""
    print(f"warning: {text}", file=sys.stderr, flush=True)
