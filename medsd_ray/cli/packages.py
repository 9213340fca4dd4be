"""What a verb lacks where medsd is installed without the extra that it needs."""

from __future__ import annotations

import re
from importlib.metadata import requires

MEASURING = ("evaluate", "insert", "augment", "tune", "demo", "reader-study")
"""Verbs that need `eval`, which holds `train`, whichever package they miss first."""
OTHER_NAMES = {"sklearn": "scikit-learn"}
"""Modules whose distribution has another name."""


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
    extra = "eval" if verb in MEASURING and smallest == "train" else smallest
    return f"medsd: {verb} needs {module}, which is not installed: pip install 'medsd[{extra}]'"


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
