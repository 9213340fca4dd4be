"""Names that a library does not have, and what may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from medsd_ray.errors import InputError


def unknown_name(where: str, name: str, known: Iterable[str]) -> InputError:
    """What to raise for a network that `where` does not have."""
    near = difflib.get_close_matches(name, list(known), n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return InputError(f"network.name: {where} has no {name!r}{hint}")


def unknown_argument(what: str, name: str, known: Iterable[str]) -> InputError:
    """What to raise for a keyword argument that `what`, a network, does not take."""
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(known)}"
    return InputError(f"network.arguments: {what} has no {name!r}{hint}")
