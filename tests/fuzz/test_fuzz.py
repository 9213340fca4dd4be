"""The short campaign: the same cases at each run. `make fuzz` goes on with others.

A case's child is forked from this process, which must be small and have no threads: families with heavy
imports come last.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.campaign import FAMILIES, Campaign, Files, Reader, readers
from fuzz.children import GROWTH, Outcome, holds
from fuzz.figures import Figures, table
from hypothesis import strategies as st

from medsd_ray.errors import InputError


def fault(_: Path) -> None:
    raise LookupError("x")


def refuse(_: Path) -> None:
    raise InputError("no")


def fill(_: Path) -> None:
    kept = [b"1" * 2**26 for _ in range(GROWTH // 2**26 + 8)]
    raise InputError(f"{len(kept)}")


def wait(_: Path) -> None:
    while True:
        pass


def end(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def damage(folder: Path) -> None:
    holds((folder / "a").read_bytes() == b"2", "the file is as it was")


KINDS = {
    "traceback": fault, "refused": refuse, "wrong": damage, "memory": fill, "crash": end, "hang": wait,
    "taken": lambda folder: None,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_has_limits(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fuzz.children.SECONDS", 0.3 if kind == "hang" else 20)
    campaign = Campaign(Reader("a reader", st.just({"a": b"1"}), KINDS[kind]), tmp_path)
    campaign.run(0, 1)
    assert campaign.figures.counts == {"cases": 1, kind: 1}
    assert (len(campaign.figures.faults) == 1) == (kind not in ("taken", "refused"))
    for folder in tmp_path.iterdir():
        assert (folder / "a").read_bytes() == b"1" and str(folder) in campaign.figures.faults[0]


def test_a_seed_is_a_campaign(tmp_path: Path):
    drawn: list[list[Files]] = []
    for number in (1, 1, 2):
        found: list[Files] = []
        inputs = st.fixed_dictionaries({"a": st.binary(max_size=9)}).map(
            lambda f, found=found: found.append(f) or f
        )
        Campaign(Reader("r", inputs, refuse), tmp_path).run(number, 20)
        drawn.append(found)
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_table():
    figures = Figures("tar")
    figures.count(Outcome("refused", growth=2**20))
    lines = table([figures]).splitlines()
    assert lines[0].startswith("| reader | cases | taken | refused | traceback |")
    assert lines[2] == "| tar | 1 | 0 | 1 | 0 | 0 | 0 | 0 | 0 | 1 |"


def test_the_command(tmp_path: Path):
    """A campaign of a second, and an input that was kept."""
    tests = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{tests.parent}:{tests}"}

    def fuzz(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fuzz", *words]
        return subprocess.run(command, env=environment, cwd=tmp_path, text=True, capture_output=True)

    ended = fuzz("--minutes", "0.02", "--families", "documents")
    assert ended.returncode == 0, ended.stderr
    assert "| run.yaml |" in ended.stdout and "| all |" in ended.stdout
    kept = tmp_path / "run.yaml-0123abcd"
    kept.mkdir()
    (kept / "run.yaml").write_text("[")
    ended = fuzz("--replay", str(kept))
    assert ended.returncode == 0 and "run.yaml: Outcome(kind='refused'" in ended.stdout


@pytest.mark.parametrize("family", FAMILIES)
def test_readers_take_or_refuse(family: str, tmp_path: Path):
    for reader in readers(family):
        campaign = Campaign(reader, tmp_path)
        campaign.run(0, reader.cases)
        assert not campaign.figures.faults, "\n".join(campaign.figures.faults)
        assert campaign.figures.counts["taken"], f"{reader.name}: good inputs are taken"
