"""What a terminal shows of a FineTune: a row of the table, its progress in one line, its conditions. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from medsd_ray.errors import InputError, Interrupted, RunError
from medsd_ray.times import moment

ENDED = ("Succeeded", "Failed", "Suspended")
"""Phases in which nothing runs and nothing will, unless someone changes the object."""

HEADER = ("NAME", "PHASE", "STEP", "LOSS", "IMAGES/S", "LEFT", "CHECKPOINT", "AGE", "MESSAGE")


MESSAGE_LENGTH = 100


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def row(finetune: dict[str, Any], now: datetime) -> list[str]:
    status = finetune.get("status") or {}
    progress = status.get("progress") or {}
    message = status.get("message", "")
    return [
        finetune["metadata"]["name"],
        phase(finetune),
        _steps(progress),
        _number(progress.get("loss"), ".4f"),
        _number(progress.get("imagesPerSecond"), ".1f"),
        progress.get("timeLeft") or "",
        _number(progress.get("lastCheckpointStep"), "d"),
        age(finetune["metadata"]["creationTimestamp"], now),
        message if len(message) <= MESSAGE_LENGTH else message[: MESSAGE_LENGTH - 1] + "…",
    ]


def phase(finetune: dict[str, Any]) -> str:
    if finetune["metadata"].get("deletionTimestamp"):
        return "Deleting"
    return (finetune.get("status") or {}).get("phase") or "Pending"


def details(finetune: dict[str, Any], now: datetime) -> str:
    """Progress in one line, why it is as it is, the conditions, and where things are."""
    status = finetune.get("status") or {}
    lines = [progress_line(finetune, now)]
    if status.get("message"):
        lines.append(status["message"])
    lines += _attempts(status)
    if conditions := status.get("conditions"):
        cells = [
            (f"  {c['type']}", c["status"], ": ".join(filter(None, (c["reason"], c["message"]))))
            for c in conditions
        ]
        lines.append(table(cells))
    addresses = {"output": finetune["spec"]["run"]["output"]} | (status.get("addresses") or {})
    lines.append(table([(f"  {name}", address) for name, address in addresses.items() if address]))
    return "\n".join(lines)


def progress_line(finetune: dict[str, Any], now: datetime) -> str:
    """`nih-unet: Running, step 120/1000, loss 0.1234, 3.2 images/s, 1:02:03 left, checkpoint of step 100 (4s
    ago)`.
    """
    progress = (finetune.get("status") or {}).get("progress") or {}
    stage = progress.get("stage")
    facts = [
        phase(finetune),
        stage if stage not in (None, "train", "done") else "",
        f"step {_steps(progress)}" if _steps(progress) else "",
        f"loss {progress['loss']:.4f}" if progress.get("loss") is not None else "",
        f"{progress['imagesPerSecond']:.1f} images/s" if progress.get("imagesPerSecond") is not None else "",
        f"{progress['timeLeft']} left" if progress.get("timeLeft") else "",
        f"checkpoint of step {progress['lastCheckpointStep']}"
        if progress.get("lastCheckpointStep") is not None
        else "",
    ]
    updated = f" ({age(progress['lastUpdateTime'], now)} ago)" if progress.get("lastUpdateTime") else ""
    return f"{finetune['metadata']['name']}: " + ", ".join(filter(None, facts)) + updated


def check_end(finetune: dict[str, Any]) -> None:
    """Raises, for a FineTune in a phase of ENDED, what `medsd train` would have raised: the exit code is that
    of the run.
    """
    name, status = finetune["metadata"]["name"], finetune.get("status") or {}
    message = status.get("message", "").removeprefix("medsd: ")
    if phase(finetune) == "Suspended":
        raise Interrupted(f"{name} is suspended; {message or 'spec.suspend: false lets it go on'}")
    if phase(finetune) == "Failed":
        reasons = {
            c["reason"]
            for c in status.get("conditions", [])
            if c["type"] == "Failed" and c["status"] == "True"
        }
        raise (InputError if "BadInput" in reasons else RunError)(
            f"{name} failed: {message or ', '.join(reasons)}"
        )


def age(time: str, now: datetime) -> str:
    """Since an RFC 3339 time, in its largest whole unit: `42s`, `7m`, `3h`, `12d`."""
    seconds = max(0, int((now - moment(time)).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _attempts(status: dict[str, Any]) -> list[str]:
    number = (status.get("attempt") or {}).get("number", 0)
    failures = status.get("failures") or {}
    if number <= 1 and not any(failures.values()):
        return []
    return [
        f"attempt {number}; before it {failures.get('infrastructure', 0)} failed with their nodes or pods, "
        f"{failures.get('application', 0)} by themselves"
    ]


def _steps(progress: dict[str, Any]) -> str:
    step, total = progress.get("step"), progress.get("totalSteps")
    return "" if step is None else f"{step}/{total}" if total else str(step)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
