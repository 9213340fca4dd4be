"""The progress line of long work: a first word within a second, few lines in a log, one in place on a
terminal.
"""

from __future__ import annotations

import sys

import pytest

from medsd_ray import progress_line
from medsd_ray.progress_line import ProgressLine, duration


def test_quick_work_has_one_line(capsys: pytest.CaptureFixture):
    with ProgressLine(4, "images encoded") as progress:
        progress.skip(1)
        for _ in range(3):
            progress.add()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("4/4 images encoded, ") and lines[0].endswith(" images/s, 0:00 left")


def test_nothing_to_do_says_nothing(capsys: pytest.CaptureFixture):
    with ProgressLine(3, "images") as progress:
        progress.skip(3)
    assert capsys.readouterr().out == ""


def test_slow_work_speaks_before_its_first_item_and_says_nothing_twice(capsys, monkeypatch):
    monkeypatch.setattr(progress_line, "FIRST_AFTER_S", 0.01)
    monkeypatch.setattr(progress_line, "LINE_EVERY_S", 0.01)
    with ProgressLine(3, "samples") as progress:
        progress._ended.wait(0.2)
    assert capsys.readouterr().out == "0/3 samples\n"


def test_on_a_terminal_the_line_is_replaced_in_place(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(KeyError), ProgressLine(2, "images") as progress:
        progress.add()
        raise KeyError
    said = capsys.readouterr().out
    assert said.startswith("\r\033[K1/2 images, ") and said.endswith(" left\n")


@pytest.mark.parametrize(("seconds", "text"), [(3723.2, "1:02:03"), (123, "2:03"), (0.4, "0:00")])
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text
