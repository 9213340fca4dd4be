"""`medsd` as a user runs it: installed and in a process of its own, or in this process."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from medsd_ray.cli.main import main

MEDSD = str(Path(sys.executable).parent / "medsd")


def medsd(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `medsd WORDS` with these additions to the environment."""
    return subprocess.run(
        [MEDSD, *map(str, words)], env=os.environ | environment, capture_output=True, text=True
    )


def printed_address(process: subprocess.Popen[str]) -> str:
    """The address that a verb which serves a page prints, after the lines on its start."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if found := re.search(r"http://\S+", line):
            return found[0]
    raise AssertionError("".join(lines) + (process.stderr.read() if process.stderr else ""))


def medsd_here(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `medsd WORDS` in this process, where torch is imported already: a process of its own spends about
    nine seconds of a core on that. For tests of what is said and written; an exception that no user should
    see is raised here too.
    """
    command, code = ["medsd", *map(str, words)], 0
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as errors,
    ):
        patch.setattr(sys, "argv", command)
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess(command, code, out.getvalue(), errors.getvalue())


def done(*words: object) -> str:
    """Runs `medsd WORDS`, which must end well. Returns what it printed."""
    return assert_done(medsd(*words))


def assert_done(result: subprocess.CompletedProcess[str]) -> str:
    """It ended well. Returns what it printed."""
    assert result.returncode == 0, (
        f"{' '.join(map(str, result.args))}: {result.returncode}\n{result.stdout}\n{result.stderr}"
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
