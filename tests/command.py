"""The installed `medsd` as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MEDSD = str(Path(sys.executable).parent / "medsd")


def medsd(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `medsd WORDS` with these additions to the environment."""
    return subprocess.run(
        [MEDSD, *map(str, words)], env=os.environ | environment, capture_output=True, text=True
    )


def done(*words: object) -> str:
    """Runs `medsd WORDS`, which must end well. Returns what it printed."""
    result = medsd(*words)
    assert result.returncode == 0, (
        f"medsd {' '.join(map(str, words))}: {result.returncode}\n{result.stdout}\n{result.stderr}"
    )
    return result.stdout


def assert_refused(result: subprocess.CompletedProcess[str], *named: str) -> str:
    """Bad input: exit code 2, no traceback, one line `medsd: ...` with all of `named`, which is returned."""
    said = f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    assert result.returncode == 2, said
    assert "Traceback" not in result.stdout + result.stderr, said
    lines = [line for line in result.stderr.splitlines() if line.startswith("medsd: ")]
    assert len(lines) == 1, said
    assert all(name in lines[0] for name in named), said
    return lines[0]
