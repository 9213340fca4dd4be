"""How quickly `medsd dashboard` shows a study of 1,000 trials with 1,000 points each, in Chromium: `python
bench/dashboard.py`.

The study is made up, in a temporary folder; nothing is trained. Beside the server's reading of the curves,
TensorBoard's (its event multiplexer, which keeps 1,000 points a curve) on the same numbers in its own files.
Needs Chromium on the PATH.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from common import ROOT, Row, row, save

sys.path.insert(0, str(ROOT / "tests"))
from chromium import find_chromium
from studies import served, write_large_study

TRIALS, POINTS = 1000, 1000
SHARED = 100
"""Trials that TensorBoard reads too: it takes long."""
PACKAGES = ("fastapi", "uvicorn", "plotly", "playwright")
TABLE = f"document.querySelectorAll('#trials tbody tr').length === {TRIALS}"
CURVES = (
    "document.querySelector('.chart.curves').data"
    "?.reduce((n, t) => n + t.x.filter(x => x === null).length, 0) === "
)
PAINTED = "new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)))"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="medsd-bench-") as folder:
        study = Path(folder) / "study"
        write_large_study(study, TRIALS, POINTS)
        rows = with_browser(study) + with_server(study)
        few = Path(folder) / "few"
        write_large_study(few, SHARED, POINTS)
        rows.append(beside_tensorboard(few, Path(folder) / "events"))
    save("dashboard", rows)


def with_browser(study: Path) -> list[Row]:
    from playwright.sync_api import sync_playwright

    chromium = find_chromium()
    assert chromium, "no Chromium on the PATH"
    with sync_playwright() as playwright, served(study) as (address, _):
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(180_000)
        started = time.perf_counter()
        page.goto(f"{address}#/study/")
        page.wait_for_function(TABLE)
        table = time.perf_counter() - started
        page.wait_for_function(CURVES + str(TRIALS))
        page.evaluate(PAINTED)
        curves = time.perf_counter() - started
        page.wait_for_timeout(10_000)  # the other charts, as long as they take
        started = time.perf_counter()
        page.fill("#filter", "lora")
        page.wait_for_function(TABLE.replace("===", "<"))
        filtered = time.perf_counter() - started
        page.wait_for_function(CURVES.replace("===", "<") + str(TRIALS))
        page.evaluate(PAINTED)
        redrawn = time.perf_counter() - started
        version = browser.version
        browser.close()
    notes = {"chromium": version, "WebGL": "by software, no GPU"}
    return [
        row(
            f"address opened -> table of {TRIALS} trials",
            table,
            None,
            "s",
            "cpu",
            "ours < 3",
            PACKAGES,
            **notes,
        ),
        row(
            f"address opened -> all {TRIALS} curves drawn",
            curves,
            None,
            "s",
            "cpu",
            "ours < 20",
            PACKAGES,
            **notes,
        ),
        row("a word in the filter -> table", filtered, None, "s", "cpu", "ours < 1", PACKAGES, **notes),
        row("a word in the filter -> curves", redrawn, None, "s", "cpu", "ours < 3", PACKAGES, **notes),
    ]


def ask(address: str, tag: str = "") -> tuple[int, bytes, str]:
    """Status, body as it was sent, and ETag."""
    request = urllib.request.Request(
        address, headers={"Accept-Encoding": "gzip"} | ({"If-None-Match": tag} if tag else {})
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read(), answer.headers["ETag"]
    except urllib.error.HTTPError as error:
        return error.code, b"", ""


def with_server(study: Path) -> list[Row]:
    with served(study) as (address, process):
        page = sum(
            len(ask(f"{address}{name}")[1])
            for name in ("", "page/plotly.min.js", "page/style.css", "page/plotly.css")
        )
        page += sum(
            len(ask(f"{address}page/{path.name}")[1])
            for path in (ROOT / "medsd_ray/dashboard/page").glob("*.js")
        )
        status, table, tag = ask(f"{address}api/study")
        assert status == 200
        cold, body = read_all(address)
        quiet = statistics.median(timed(f"{address}api/study", tag) for _ in range(30))
        since = f"{address}api/curves?since={json.loads(gzip.decompress(body))['version']}"
        more = statistics.median(timed(since, "") for _ in range(30))
        memory = int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[0]) / 1024
    return [
        row(
            f"{TRIALS} curves of {POINTS} points read, nothing cached",
            cold,
            None,
            "s",
            "cpu",
            "ours < 10",
            PACKAGES,
        ),
        row(
            "a poll of the table when nothing changed, p50",
            1000 * quiet,
            None,
            "ms",
            "cpu",
            "ours < 100",
            PACKAGES,
        ),
        row(
            "a poll of the curves when nothing changed, p50",
            1000 * more,
            None,
            "ms",
            "cpu",
            "ours < 100",
            PACKAGES,
        ),
        row("the page without data, as sent", page / 1024, None, "KiB", "cpu", "ours < 2048", PACKAGES),
        row(
            f"table of {TRIALS} trials, as sent",
            len(table) / 1024,
            None,
            "KiB",
            "cpu",
            "ours < 200",
            PACKAGES,
        ),
        row(f"{TRIALS} curves, as sent", len(body) / 1024, None, "KiB", "cpu", "ours < 1500", PACKAGES),
        row("the server's memory after that", memory, None, "MiB", "cpu", "ours < 512", PACKAGES),
    ]


def read_all(address: str) -> tuple[float, bytes]:
    """Seconds until the server has read every curve, and its answer with all of them."""
    started = time.perf_counter()
    version, found = "", {"ready": -1, "wanted": 0}
    while found["ready"] != found["wanted"]:
        found = json.loads(gzip_or_not(ask(f"{address}api/curves?since={version}")[1]))
        version = found["version"]
    return time.perf_counter() - started, ask(f"{address}api/curves")[1]


def gzip_or_not(body: bytes) -> bytes:
    return gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body


def beside_tensorboard(study: Path, events: Path) -> Row:
    with served(study) as (address, _):
        ours, _ = read_all(address)
    return row(
        f"{SHARED} curves of {POINTS} points read, nothing cached",
        ours,
        tensorboard(study, events),
        "s",
        "cpu",
        "ratio < 1",
        (*PACKAGES, "tensorboard"),
        **{"peer is": "TensorBoard's event multiplexer"},
    )


def timed(address: str, tag: str) -> float:
    started = time.perf_counter()
    ask(address, tag)
    return time.perf_counter() - started


def tensorboard(study: Path, events: Path) -> float:
    """Seconds in which TensorBoard's multiplexer, in a new process, reads the same curves from its files."""
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.summary.writer.record_writer import RecordWriter

    for trial in sorted((study / "trials").iterdir()):
        path = events / trial.name / "events.out.tfevents.1.host"
        path.parent.mkdir(parents=True)
        with path.open("wb") as file:
            writer = RecordWriter(file)
            writer.write(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
            for line in (trial / "metrics.jsonl").read_text().splitlines():
                record = json.loads(line)
                value = Summary.Value(tag="validation_loss", simple_value=record["validation_loss"])
                event = Event(wall_time=1.0, step=record["step"], summary=Summary(value=[value]))
                writer.write(event.SerializeToString())
    code = (
        "import sys, time\n"
        "from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer\n"
        "started = time.perf_counter()\n"
        f"found = EventMultiplexer(size_guidance={{'scalars': {POINTS}, 'tensors': {POINTS}}})\n"
        "found.AddRunsFromDirectory(sys.argv[1])\n"
        "found.Reload()\n"
        "print(len(found.Runs()), time.perf_counter() - started)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(events)], capture_output=True, text=True, env=os.environ, check=True
    )
    runs, seconds = done.stdout.split()
    assert int(runs) == SHARED
    return float(seconds)


if __name__ == "__main__":
    main()
