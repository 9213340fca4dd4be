"""What a run says of itself: kept over restarts of its workers; and one wish to stop, however often it
arrives.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from pathlib import Path

import pytest
from terminals import on_a_terminal

from medsd_ray.errors import RefusedError
from medsd_ray.runs.checkpoints import VALIDATION
from medsd_ray.runs.names import METRICS, STOP
from medsd_ray.runs.progress import read_metrics, read_progress
from medsd_ray.runs.record import read_run
from medsd_ray.storage import FolderStorage, Storage
from medsd_ray.training import reporter, terminal
from medsd_ray.training.reporter import Reporter, add_warning

LOST = "a worker was lost (its process died); going on from the newest checkpoint, restart 1 of 3"


def record(step: int) -> dict:
    rates = {"unet": 1e-3}
    return {
        "step": step,
        "loss": 1 / step,
        "grad_norm": 1.0,
        "learning_rates": rates,
        "images_per_second": 4.0,
        "eta_seconds": 9.0,
    }


def test_a_restart_keeps_warnings_and_drops_later_records(tmp_path: Path):
    output = FolderStorage(tmp_path)
    first = Reporter(output, 10, 0, ["a damaged checkpoint"])
    for step in (1, 2, 3):
        first.log(record(step))
    first.warn("the checkpoint of step 3 was not saved")
    first.close("failed")
    assert read_progress(output)["state"] == "failed"

    add_warning(output, 10, LOST)
    said = read_progress(output)
    assert (said["state"], said["step"], said["warnings"][-1]) == ("running", 3, LOST)

    second = Reporter(output, 10, 2, ["a damaged checkpoint"])
    second.log(record(3))
    second.close("finished")
    said = read_progress(output)
    assert said["warnings"] == ["a damaged checkpoint", "the checkpoint of step 3 was not saved", LOST]
    assert [r["step"] for r in read_metrics(output)] == [1, 2, 3]
    assert said["loss"] == pytest.approx(1 / 3) and said["total"] == 10


def test_a_validation_loss_of_an_earlier_version_is_not_mixed_with_new_ones(tmp_path: Path):
    before = [
        {"step": 2, "validation_loss": 0.5},
        {"step": 4, "validation_loss": 0.7, "validation": VALIDATION},
        {"step": 4, "loss": 0.9},
    ]
    (tmp_path / METRICS).write_text("".join(json.dumps(record) + "\n" for record in before))
    reporter = Reporter(FolderStorage(tmp_path), 8, 4, [])
    reporter.close("finished")
    kept = read_metrics(FolderStorage(tmp_path))
    assert kept == [{"step": 2, "validation_loss_1": 0.5}, *before[1:]]


def test_a_truncated_record_loses_no_more_than_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = FolderStorage(tmp_path)
    lines = "".join(json.dumps(record(step)) + "\n" for step in (1, 2, 3))
    output.write("metrics.jsonl", lines[:-20].encode())
    output.write("result.json", b'{"step": 3, "lo')
    Reporter(output, 10, 3, []).close("finished")
    assert [r["step"] for r in read_metrics(output)] == [1, 2]
    (warning,) = read_progress(output)["warnings"]
    assert "metrics.jsonl: 1 of 3 lines are damaged and left out" in warning
    output.write("metrics.jsonl", lines[:-20].encode())
    found = read_run(str(tmp_path))
    assert [r["step"] for r in found.metrics] == [1, 2] and found.result == {}
    said = capsys.readouterr().err
    assert "1 of 3 lines are damaged" in said and "result.json: not JSON" in said


def test_a_store_that_takes_no_writes_is_said_past_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    output, said = FolderStorage(tmp_path), []
    monkeypatch.setattr(reporter, "WRITE_EVERY_S", 0.01)
    monkeypatch.setattr(
        os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only file system"))
    )
    records = Reporter(output, 10, 0, [], said.append)
    records.warn("the checkpoint of step 3 was not saved")
    while len(said) < 2:
        time.sleep(0.01)
    with pytest.raises(RefusedError):
        records.close("failed")
    assert said[0] == "the checkpoint of step 3 was not saved"
    assert said[1].startswith("the run's records are not written: cannot write") and "Read-only" in said[1]
    shown = terminal.RecordPrinter(output, 10, 0, "2 workers")
    for _ in range(2):
        shown.update(said)
    assert capsys.readouterr().out.count("warning: the run's records are not written") == 1


def test_a_run_in_a_log_says_how_it_starts_and_each_record(tmp_path: Path, capsys):
    output = FolderStorage(tmp_path)
    shown = terminal.RecordPrinter(output, 10, 0, "2 workers")
    shown.update()
    assert capsys.readouterr().out == "starting 2 workers ...\n"
    records = Reporter(output, 10, 0, [])
    records.flush()
    shown.update()
    shown.update()
    assert capsys.readouterr().out == "2 workers up, first step ...\n"
    records.log(record(1))
    records.close("finished")
    shown.update()
    shown.close()
    assert capsys.readouterr().out.startswith("step  1/10  loss ")


def test_a_run_on_a_terminal_has_a_bar_with_the_newest_record(tmp_path: Path):
    shown = on_a_terminal(
        "import json\n"
        "from medsd_ray.storage import open_storage\n"
        "from medsd_ray.training.reporter import Reporter\n"
        "from medsd_ray.training.terminal import RecordPrinter\n"
        f"output = open_storage({str(tmp_path)!r})\n"
        "shown, records = RecordPrinter(output, 10, 0, '2 workers'), Reporter(output, 10, 0, [])\n"
        f"for one in json.loads({json.dumps([record(1), record(2)])!r}):\n"
        "    records.log(one)\n"
        "    records.flush()\n"
        "    shown.update()\n"
        "shown.on_record({'step': 2, 'validation_loss': 0.5})\n"
        "records.close('finished')\n"
        "shown.close()\n"
        "print('the end')\n"
    )
    assert "starting 2 workers ..." in shown and "━" in shown
    for step in (1, 2):
        assert f"step {step}/10  loss " in shown
    assert "images/s" in shown and " left" in shown and "grad norm" not in shown
    assert "step  2/10  validation loss 0.50000" in shown and shown.rstrip().endswith("the end")


def test_a_warning_before_the_first_step(tmp_path: Path):
    add_warning(FolderStorage(tmp_path), 10, LOST)
    said = read_progress(FolderStorage(tmp_path))
    assert (said["step"], said["total"], said["state"], said["warnings"]) == (0, 10, "running", [LOST])


class Away(FolderStorage):
    """A store that does not answer while `away`."""

    away = False

    def write(self, key: str, data: bytes) -> None:
        if self.away:
            raise OSError("no answer")
        super().write(key, data)


def test_what_is_said_while_the_store_is_away_comes_later(tmp_path: Path):
    output = Away(tmp_path)
    reporter = Reporter(output, 10, 0, [])
    output.away = True
    reporter.log(record(1))
    reporter.warn("the checkpoint of step 1 was not saved")
    time.sleep(1.5)
    output.away = False
    wait_for_step(output, 1)
    assert read_progress(output)["warnings"] == ["the checkpoint of step 1 was not saved"]
    output.write(STOP, b"")
    end = time.monotonic() + 20
    while not reporter.stop_requested:
        assert time.monotonic() < end
        time.sleep(0.1)
    output.away = True
    reporter.log(record(2))
    output.away = False
    reporter.close("interrupted")
    assert read_progress(output)["state"] == "interrupted" and read_progress(output)["step"] == 2


def wait_for_step(output: Storage, step: int) -> None:
    end = time.monotonic() + 20
    while read_progress(output).get("step") != step:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_wish_to_stop_that_arrives_twice_is_one(monkeypatch: pytest.MonkeyPatch):
    with terminal.stop_on_signals() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        monkeypatch.setattr(terminal, "SAME_STOP_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_signals_that_were_blocked_are_heard():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with terminal.stop_on_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
