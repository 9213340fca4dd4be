"""What a verb shows of its work: plain lines in a log, on a terminal one line that is replaced in place."""

from __future__ import annotations

import sys

import pytest
from terminals import on_a_terminal

from medsd_ray import console
from medsd_ray.console import ProgressLine, duration


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
    monkeypatch.setattr(console, "FIRST_AFTER_S", 0.01)
    monkeypatch.setattr(console, "LINE_EVERY_S", 0.01)
    with ProgressLine(3, "samples") as progress:
        progress._ended.wait(0.2)
    assert capsys.readouterr().out == "0/3 samples\n"


def test_stages_in_a_log_are_lines_of_their_own(capsys: pytest.CaptureFixture):
    console.stage("checking the model [bold]m[/bold]")
    console.stage("asking the cluster", sys.stderr)
    console.clear()
    assert tuple(capsys.readouterr()) == (
        "checking the model [bold]m[/bold] ...\n",
        "asking the cluster ...\n",
    )


def test_on_a_terminal_a_stage_is_replaced_by_the_next_and_what_is_printed_stays_above():
    shown = on_a_terminal(
        "import time\n"
        "from medsd_ray import console\n"
        "console.stage('checking [red]x[/red]')\n"
        "print('a fact')\n"
        "console.stage('starting Ray')\n"
        "time.sleep(0.3)\n"
        "console.clear()\n"
        "print('the end')\n"
    )
    assert "checking [red]x[/red] ..." in shown and "starting Ray ..." in shown
    assert shown.index("a fact") < shown.index("starting Ray")
    assert shown.count("\x1b[2K") >= 2, "lines are erased and drawn anew"
    assert shown.rstrip().endswith("the end")


def test_on_a_terminal_counted_work_has_a_bar_that_is_replaced_in_place():
    shown = on_a_terminal(
        "import time\n"
        "from medsd_ray import console\n"
        "console.IN_PLACE_EVERY_S = console.FIRST_AFTER_S = 0.05\n"
        "with console.ProgressLine(2, 'images') as progress:\n"
        "    time.sleep(0.8)\n"
        "    progress.add()\n"
        "    time.sleep(0.8)\n"
        "    progress.add()\n"
    )
    assert "0/2 images" in shown and "1/2 images, " in shown and "2/2 images, " in shown
    assert "━" in shown and "\x1b[2K" in shown and "images/s, 0:00 left" in shown
    assert shown.count("\r\n") <= 3


@pytest.mark.parametrize(("seconds", "text"), [(3723.2, "1:02:03"), (123, "2:03"), (0.4, "0:00")])
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text
