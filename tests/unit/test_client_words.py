"""What the terminal shows of FineTunes, and which exit code a followed run ends with."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from medsd_ray.client import display, ray_job_client
from medsd_ray.errors import InputError, Interrupted, RunError

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def item(**status: object) -> dict:
    meta = {"name": "nih-unet", "creationTimestamp": "2026-03-01T09:30:00Z"}
    return {"metadata": meta, "spec": {"run": {"output": "s3://bucket/runs/nih"}}, "status": status}


RUNNING = item(
    phase="Running",
    message="goes on",
    attempt={"number": 2},
    failures={"infrastructure": 1, "application": 0},
    progress={
        "stage": "train", "step": 120, "totalSteps": 1000, "loss": 0.12345, "imagesPerSecond": 3.21,
        "timeLeft": "1:02:03",
        "lastCheckpointStep": 100, "lastUpdateTime": "2026-03-01T11:59:56+00:00",
    },
    conditions=[
        {"type": "Scheduled", "status": "True", "reason": "Placed", "message": "2 of 2 workers run"},
        {"type": "Stalled", "status": "False", "reason": "Moving", "message": ""},
    ],
    addresses={"output": "s3://bucket/runs/nih", "report": None, "logs": "s3://bucket/runs/nih/logs"},
)  # fmt: skip


def test_a_running_one_is_told_in_one_line_then_why_then_where():
    assert display.details(RUNNING, NOW).splitlines() == [
        "nih-unet: Running, step 120/1000, loss 0.1235, 3.2 images/s, 1:02:03 left, checkpoint of step 100 "
        "(4s ago)",
        "goes on",
        "attempt 2; before it 1 failed with their nodes or pods, 0 by themselves",
        "  Scheduled  True   Placed: 2 of 2 workers run",
        "  Stalled    False  Moving",
        "  output  s3://bucket/runs/nih",
        "  logs    s3://bucket/runs/nih/logs",
    ]


def test_one_that_the_operator_has_not_seen_yet_is_pending():
    fresh = item()
    del fresh["status"]
    assert display.details(fresh, NOW).splitlines() == ["nih-unet: Pending", "  output  s3://bucket/runs/nih"]
    assert display.row(fresh, NOW) == ["nih-unet", "Pending", "", "", "", "", "", "2h", ""]


def test_one_that_is_being_deleted_says_so():
    leaving = item(phase="Running")
    leaving["metadata"]["deletionTimestamp"] = "2026-03-01T11:00:00Z"
    assert display.phase(leaving) == "Deleting"


def test_the_table_has_a_column_for_each_figure_and_cuts_long_messages():
    waiting = item(phase="Starting", message="waiting for 2 GPUs " + "and more " * 30)
    lines = display.table([display.HEADER, display.row(RUNNING, NOW), display.row(waiting, NOW)]).splitlines()
    assert lines[0].split() == list(display.HEADER)
    assert lines[1].split()[:8] == [
        "nih-unet",
        "Running",
        "120/1000",
        "0.1235",
        "3.2",
        "1:02:03",
        "100",
        "2h",
    ]
    start = lines[0].index("MESSAGE")
    assert lines[2][start:].startswith("waiting for 2 GPUs") and lines[2].endswith("…")
    assert len(lines[2][start:]) == display.MESSAGE_LENGTH


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ("2026-03-01T11:59:18Z", "42s"),
        ("2026-03-01T11:53:00Z", "7m"),
        ("2026-02-20T12:00:00Z", "9d"),
        ("2026-03-01T13:00:00Z", "0s"),
    ],
)
def test_ages_are_in_their_largest_unit(time: str, said: str):
    assert display.age(time, NOW) == said


@pytest.mark.parametrize(
    ("phase", "reason", "error"),
    [
        ("Failed", "BadInput", InputError),
        ("Failed", "RunFailed", RunError),
        ("Failed", "DeadlineExceeded", RunError),
        ("Suspended", "", Interrupted),
    ],
)
def test_a_followed_run_ends_as_medsd_train_would(phase: str, reason: str, error: type[Exception]):
    conditions = [{"type": "Failed", "status": "True", "reason": reason, "message": ""}]
    with pytest.raises(error, match="no such shards"):
        display.check_end(item(phase=phase, message="medsd: no such shards", conditions=conditions))


def test_a_followed_run_that_succeeded_raises_nothing():
    display.check_end(item(phase="Succeeded"))
    ray_job_client.check_end("run-1", "SUCCEEDED", 0, "")


@pytest.mark.parametrize(
    ("status", "exit_code", "error"),
    [
        ("FAILED", 2, InputError),
        ("FAILED", 1, RunError),
        ("FAILED", 137, RunError),
        ("FAILED", None, RunError),
        ("FAILED", 130, Interrupted),
        ("STOPPED", None, Interrupted),
    ],
)
def test_a_followed_ray_job_ends_as_medsd_train_did(
    status: str, exit_code: int | None, error: type[Exception]
):
    with pytest.raises(error, match="run-1"):
        ray_job_client.check_end("run-1", status, exit_code, "no room")
