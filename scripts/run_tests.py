"""The unit tests, strange inputs and integration tests in two processes at once, as `make test` runs them.

Tests that start a Ray of their own wait for processes much of the time: the other tests run beside them. The
output of Ray's tests is printed when all have ended. Coverage is counted for the unit tests alone, which it
slows by half.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
STARTS_RAY = [
    f"tests/integration/test_{name}.py"
    for name in ("training_ray", "tune", "augment", "entrypoint", "submit_ray", "pipeline")
]
COVERAGE = {"PYTEST_ADDOPTS": "--cov=medsd_ray --cov-branch --cov-report="}


def main() -> int:
    """Runs all tests, and returns 1 where one failed."""
    pytest = [sys.executable, "-m", "pytest"]
    others = ["tests/integration", *(f"--ignore={path}" for path in STARTS_RAY)]
    with tempfile.TemporaryFile("w+") as log:
        print(f"Beside these tests, and printed after them: {' '.join(STARTS_RAY)}", flush=True)
        # A session of its own: Ctrl-C in the terminal would reach the processes that these tests interrupt.
        ray = subprocess.Popen(
            [*pytest, *STARTS_RAY], cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True
        )
        try:
            codes = [
                subprocess.call(["make", "test-unit"], cwd=REPOSITORY, env=os.environ | COVERAGE),
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
