"""The versions of the packages whose code a figure depends on."""

from __future__ import annotations

import importlib.metadata
import platform

PACKAGES = (
    "medsd",
    "torch",
    "torchvision",
    "torchmetrics",
    "torch-fidelity",
    "torchxrayvision",
    "diffusers",
    "transformers",
    "ray",
    "deepspeed",
    "numpy",
    "scipy",
)


def versions() -> dict[str, str | None]:
    """Of Python and the packages whose code a figure depends on; null for one that is not installed."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
    }
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
