"""Where a run of the tests spent its time, said at its end.

This module is a pytest plugin, which tests/conftest.py registers.
"""

from __future__ import annotations

from collections import defaultdict

import pytest

SHOWN, LEAST_S = 12, 0.5


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tests: dict[str, float] = defaultdict(float)  # seconds, with the fixtures that were set up for the test
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                tests[report.nodeid] += report.duration
    if not tests:
        return
    files: dict[str, float] = defaultdict(float)
    for test, seconds in tests.items():
        files[test.partition("::")[0]] += seconds
    terminalreporter.section("where the time went")
    for what, times in (("files", files), ("tests", tests)):
        slowest = sorted(times.items(), key=lambda item: item[1], reverse=True)[:SHOWN]
        shown = [(name, seconds) for name, seconds in slowest if seconds >= LEAST_S]
        for name, seconds in shown:
            terminalreporter.line(f"{seconds:8.1f} s  {name}")
        if len(times) > len(shown):
            rest = sum(times.values()) - sum(seconds for _, seconds in shown)
            terminalreporter.line(f"{rest:8.1f} s  {len(times) - len(shown)} other {what}")
    terminalreporter.line(f"{sum(files.values()):8.1f} s  {len(tests)} tests in {len(files)} files")
