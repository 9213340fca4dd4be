"""The name that was meant, where one is not there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches


def near_name(name: str, names: Iterable[str], also: Iterable[str] = ()) -> str | None:
    """The one of `names` that is nearest to `name`, or else to another word for it; None where none is near.

    Case, spaces and signs do not count.
    """
    plain = {_plain(one): one for one in reversed(list(names)) if _plain(one)}
    words = list(map(_plain, (name, *also)))
    same = [word for word in words if word in plain]
    near = same or [match for word in words for match in get_close_matches(word, plain, 1, 0.8)]
    return plain[near[0]] if near else None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()
