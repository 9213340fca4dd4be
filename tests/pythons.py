"""Pythons of other versions than the one that runs the tests.

python3 tests/pythons.py 3.13    prints where there is one, and fails where there is none
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

NO_PYTHON = "there is no Python 3.13"


@cache
def find_python(version: str) -> str | None:
    """One of the PATH, of pyenv or of uv, or None. A name alone is not enough: pyenv has shims for versions
    that are not the chosen one.
    """
    homes = (".pyenv/versions", ".local/share/uv/python")
    patterns = (f"{version}.*/bin/python", f"cpython-{version}.*/bin/python")
    installed = [
        str(found) for home in homes for pattern in patterns for found in (Path.home() / home).glob(pattern)
    ]
    for candidate in (shutil.which(f"python{version}"), *sorted(installed)):
        if candidate and _says_its_version(candidate) == version:
            return candidate
    return None


def _says_its_version(python: str) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    found = find_python(sys.argv[1])
    sys.exit(print(found) if found else f"there is no Python {sys.argv[1]} on the PATH, of pyenv or of uv")
