"""The versions of the packages whose code a figure depends on."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

PACKAGES = (
    "medsd",
    "torch",
    "torchvision",
    "torchmetrics",
    "torch-fidelity",
    "torchxrayvision",
    "monai",
    "timm",
    "segmentation-models-pytorch",
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


def own_code() -> list[str]:
    """The texts of all that computes figures and shows them: where they change, a report may."""
    files = sorted(Path(__file__).parent.rglob("*"))
    return [path.read_text() for path in files if path.suffix in (".py", ".j2")]
