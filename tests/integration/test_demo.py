"""`medsd demo` in small: every step runs, a second call keeps what is finished, and the page is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medsd_ray.demo import DemoSizes, demo
from medsd_ray.spec.images import Sampling
from medsd_ray.storage import COMPLETE

SIZES = DemoSizes(phantoms=80, vae_steps=2, unet_steps=2, images=16, sampling=Sampling(steps=2))


def test_every_step_runs_and_a_second_call_keeps_what_is_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    demo(None, tmp_path, SIZES)
    assert f"Open {tmp_path / 'report/report.html'}" in capsys.readouterr().out
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report["model_fingerprint"]
    for name, steps in (("vae", SIZES.vae_steps), ("unet", SIZES.unet_steps)):
        assert json.loads((tmp_path / name / "result.json").read_text())["step"] == steps
    made = {name: (tmp_path / name / COMPLETE).stat().st_mtime_ns for name in ("generated", "base")}
    demo(None, tmp_path, SIZES)
    printed = capsys.readouterr().out
    assert "done: " not in printed, "nothing is trained again"
    assert {name: (tmp_path / name / COMPLETE).stat().st_mtime_ns for name in made} == made
