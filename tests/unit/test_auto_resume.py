"""`--auto-resume`: whether an output holds this run, another one, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsd_ray.errors import InputError
from medsd_ray.spec.load import dump_run, parse_run
from medsd_ray.spec.run import RunSpec
from medsd_ray.storage import FolderStorage
from medsd_ray.training.checks import started
from medsd_ray.training.run import finished, train

RESULT = {
    "step": 8, "loss": 0.25, "validation_loss": None, "images_per_second": 12.0,
    "optimizer_bytes_per_worker": 2_000_000,
    "world_size": 2, "zero_stage": 2,
}  # fmt: skip


def spec(root: Path, **changes: object) -> RunSpec:
    values = {
        "name": "r", "data": {"train": str(root / "latents")}, "components": {"unet": "full"},
        "training": {"max_steps": 8, "global_batch_size": 8}, "output": str(root / "out"),
    }  # fmt: skip
    return parse_run(values | changes)


def test_what_is_there_decides(tmp_path: Path):
    output, run = FolderStorage(tmp_path / "out"), spec(tmp_path)
    assert not started(output) and finished(output, run) is None
    output.write("run.yaml", dump_run(run).encode())
    assert started(output) and finished(output, run) is None
    output.write_json("result.json", RESULT)
    assert finished(output, run) == RESULT
    assert (
        finished(output, spec(tmp_path, resources={"num_workers": 2, "max_failures": 3})) == RESULT
    )  # may change
    with pytest.raises(InputError, match="seed"):
        finished(output, spec(tmp_path, seed=1))


def test_a_damaged_result_is_said_and_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output, run = FolderStorage(tmp_path / "out"), spec(tmp_path)
    output.write("run.yaml", dump_run(run).encode())
    for left in (b"", b'{"step": 8, ', bytes(20)):
        output.write("result.json", left)
        assert finished(output, run) is None
    assert "result.json: not JSON" in capsys.readouterr().err


def test_a_finished_run_ends_at_once_with_its_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = spec(tmp_path)  # its data is not there: nothing but the output is looked at
    output = FolderStorage(tmp_path / "out")
    output.write("run.yaml", dump_run(run).encode())
    output.write_json("result.json", RESULT)
    assert train(run, resume=False, auto_resume=True) == RESULT
    assert capsys.readouterr().out.startswith("done: 8 steps, loss 0.2500")
    with pytest.raises(InputError, match="--resume"):  # without it, the output is safe
        train(run, resume=False)
