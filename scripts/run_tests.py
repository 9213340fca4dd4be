"""The unit tests, strange inputs and integration tests in two processes at once, as `make test` runs them;
`--all`, as `make test-all` does, adds those that take longest.

Tests that start a Ray of their own wait for processes much of the time: the other tests run beside them. The
output of Ray's tests is printed when all have ended. With `--all` coverage is counted too, of the unit tests
alone, which it slows by half.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
STARTS_RAY = ("training_ray", "tune", "augment", "entrypoint", "submit_ray", "pipeline")
LONGEST = (
    *("augment", "entrypoint", "submit_ray", "pipeline", "demo", "methods", "insert", "interrupted"),
    *("small_sets", "compile_cache", "conditions", "task_export", "task_weights", "task_evaluation"),
)
"""Those that `make test` has no time for: each takes a minute or several. Unit tests see what they are made
of, and tests/cluster sees a run from its start to its report.
"""
COVERAGE = {"PYTEST_ADDOPTS": "--cov=medsd_ray --cov-branch --cov-report="}


def _paths(names: Iterable[str]) -> list[str]:
    return [f"tests/integration/test_{name}.py" for name in names]


def main() -> int:
    """Runs the tests, and returns 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="those that take longest too")
    counted, left = (COVERAGE, ()) if parser.parse_args().all else ({}, LONGEST)
    rays = _paths(name for name in STARTS_RAY if name not in left)
    pytest = [sys.executable, "-m", "pytest"]
    others = ["tests/integration", *(f"--ignore={path}" for path in [*rays, *_paths(left)])]
    with tempfile.TemporaryFile("w+") as log:
        print(f"Beside these tests, and printed after them: {' '.join(rays)}", flush=True)
        if left:
            print(f"Left to `make test-all`: {' '.join(_paths(left))}", flush=True)
        # A session of its own: Ctrl-C in the terminal would reach the processes that these tests interrupt.
        ray = subprocess.Popen(
            [*pytest, *rays], cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True
        )
        try:
            codes = [
                subprocess.call(["make", "test-unit"], cwd=REPOSITORY, env=os.environ | counted),
                subprocess.call([*pytest, "tests/fuzz"], cwd=REPOSITORY),
                subprocess.call([*pytest, *others], cwd=REPOSITORY),
                ray.wait(),
            ]
        except KeyboardInterrupt:
            ray.send_signal(signal.SIGINT)  # pytest ends its fixtures, and Ray with them
            ray.wait()
            return 130
        log.seek(0)
        sys.stdout.write(log.read())
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
