"""A verb in a process of its own that is told to end."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
from command import MEDSD


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_verb_exits_130_and_goes_on_later(tmp_path: Path, sent: signal.Signals):
    shards = tmp_path / "shards"
    words = ["prepare", "20000", str(shards), "--kind", "phantom", "--size", "64", "--shard-size", "16KiB"]
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a script's `medsd ... &` inherits it
    process = subprocess.Popen([MEDSD, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, ignored)
    try:
        for _ in range(3000):
            if list(shards.glob("*/*.tar")):
                break
            time.sleep(0.1)
        process.send_signal(sent)
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert said.splitlines()[-1].startswith("medsd: interrupted") and "Traceback" not in said
    assert list(shards.glob("*/*.tar")) and not (shards / "index.json").exists()
