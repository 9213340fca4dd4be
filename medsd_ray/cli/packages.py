"""What a verb lacks where medsd is installed without the extra that it needs."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from importlib.metadata import requires
from importlib.util import find_spec
from typing import Any

NEEDED = {
    **dict.fromkeys(("encode", "train", "generate", "predict", "export"), "torch"),
    **dict.fromkeys(("tune", "evaluate", "localize", "insert", "augment", "demo", "paper"), "torchmetrics"),
    **dict.fromkeys(("reader-study new", "reader-study report"), "torchmetrics"),
    **dict.fromkeys(("dashboard", "reader-study serve"), "fastapi"),
}
"""A package without which a verb can do nothing, and which its extra alone brings. Others, such as `prepare`,
need one for some of their work; that is found out when it is imported.
"""
OTHER_NAMES = {"sklearn": "scikit-learn"}
"""Modules whose distribution has another name."""


def with_packages(verb: Callable[..., None], group: str = "") -> Callable[..., None]:
    """The same verb, which asks for its package before it does anything. Raises ModuleNotFoundError."""
    module = NEEDED.get(group + verb.__name__)

    @wraps(verb)
    def checked(**options: Any) -> None:
        if module is not None and find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        verb(**options)

    return checked


def missing_package(error: ModuleNotFoundError, verb: str) -> str | None:
    """One line that names the extra to install, by medsd's own metadata. None where no verb's extra brings
    the module: then something is broken rather than left out.
    """
    module = (error.name or "").partition(".")[0]
    wanted = _normal(OTHER_NAMES.get(module, module))
    found = {extra: names for extra, names in _extras().items() if wanted in names}
    if not found:
        return None
    smallest = min(found, key=lambda extra: len(found[extra]))
    return f"medsd: {verb} needs {module}, which is not installed: pip install 'medsd[{smallest}]'"


def _extras() -> dict[str, set[str]]:
    """The distributions that each extra names, without the operator's, which is no verb."""
    found: dict[str, set[str]] = {}
    for requirement in requires("medsd") or ():
        name, extra = re.match(r"[\w.-]+", requirement), re.search(r"""extra == ['"](\w+)['"]""", requirement)
        if name and extra and extra[1] != "operator":
            found.setdefault(extra[1], set()).add(_normal(name[0]))
    return found


def _normal(name: str) -> str:
    """As PEP 503 compares names of distributions."""
    return re.sub(r"[-_.]+", "-", name).lower()
