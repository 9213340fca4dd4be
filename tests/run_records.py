"""What a run has left behind, for tests of training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch


def records(root: Path, output: str) -> list[dict]:
    return [json.loads(line) for line in (root / output / "metrics.jsonl").read_text().splitlines()]


def losses(root: Path, output: str, after: int = 0) -> torch.Tensor:
    return torch.tensor(
        [r["loss"] for r in records(root, output) if "loss" in r and r["step"] > after], dtype=torch.float64
    )


def half_of(root: Path, source: str, target: str, steps: int) -> None:
    """What a run of `steps` has left when it is killed after its first checkpoint."""
    shutil.copytree(root / source, root / target)
    shutil.rmtree(root / target / f"checkpoints/step-{steps:08d}")
    (root / target / "result.json").unlink()
