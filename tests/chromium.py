"""The Chromium of this machine, for what looks at the pages."""

from __future__ import annotations

import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")
NO_CHROMIUM = "no Chromium on the PATH (Debian: apt install chromium)"


def find_chromium() -> str | None:
    """Its path, or None where none is on the PATH."""
    return next(filter(None, map(shutil.which, NAMES)), None)
