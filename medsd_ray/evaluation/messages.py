"""How a long computation tells a person where it stands: a line at a time, printed unless a caller keeps
it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

Say = Callable[[str], None]
print_line: Say = partial(print, flush=True)
