"""A run's checkpoint, report and export come to a local folder whole, checked, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import shifted, tiny_components, write_checkpoint

from medsd_ray.client.download import download
from medsd_ray.errors import InputError, RunError
from medsd_ray.models.resolve import model_fingerprint
from medsd_ray.models.save import save_pipeline
from medsd_ray.storage import open_storage


def upload(address: str, files: dict[str, str], folder: Path) -> None:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    open_storage(address).upload_tree(folder)


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_the_newest_complete_checkpoint_is_fetched(s3: str, tmp_path: Path):
    for step in (5, 10):
        checkpoint = {"rank-00000.safetensors": str(step), "checkpoint.json": "{}"}
        upload(f"{s3}/checkpoints/step-{step:08d}", checkpoint, tmp_path / str(step))
    open_storage(s3).write("checkpoints/step-00000015/rank-00000.safetensors", b"half-written")
    dest = tmp_path / "new" / "checkpoint"
    download(s3, dest, "checkpoint")
    assert files(dest) == ["COMPLETE", "checkpoint.json", "rank-00000.safetensors"]
    assert (dest / "rank-00000.safetensors").read_text() == "10"
    assert [path.name for path in dest.parent.iterdir()] == ["checkpoint"]


def test_a_damaged_or_vanishing_checkpoint_leaves_nothing_behind(s3: str, tmp_path: Path):
    address = f"{s3}/checkpoints/step-00000005"
    upload(address, {"a": "whole", "b": "whole"}, tmp_path / "source")
    dest = tmp_path / "new" / "checkpoint"
    open_storage(address).write("a", b"other")
    with pytest.raises(InputError, match="checksum"):
        download(s3, dest, "checkpoint")
    open_storage(address).delete("a")
    with pytest.raises(RunError, match="try again"):
        download(s3, dest, "checkpoint")
    assert list(dest.parent.iterdir()) == []


def test_what_is_not_there_and_a_folder_in_use_are_refused(s3: str, tmp_path: Path):
    for what in ("checkpoint", "report"):
        with pytest.raises(InputError, match=f"no complete {what}"):
            download(s3, tmp_path / "new", what)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").touch()
    with pytest.raises(InputError, match="used"):
        download(s3, tmp_path / "used", "checkpoint")
    with pytest.raises(InputError, match="--what export"):
        download(s3, tmp_path / "new", "checkpoint", raw=True)


def test_the_report_is_fetched_into_an_empty_folder(s3: str, tmp_path: Path):
    upload(f"{s3}/report", {"report.html": "<html>", "report.json": "{}"}, tmp_path / "source")
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest" / ".DS_Store").touch()  # as a file manager leaves it
    download(s3, tmp_path / "dest", "report")
    assert files(tmp_path / "dest") == ["COMPLETE", "report.html", "report.json"]


def test_an_export_passes_the_same_gate_with_the_runs_own_report(s3: str, tmp_path: Path):
    components = tiny_components(0)
    save_pipeline(components, tmp_path / "base")
    weights, ema = shifted(components, "unet", 0.5), shifted(components, "unet", 1.0)
    write_checkpoint(
        open_storage(f"{s3}/checkpoints/step-00000020"),
        str(tmp_path / "base"),
        {"unet": "full"},
        weights,
        ema,
    )
    dest = tmp_path / "dest"
    open_storage(s3).write("run.yaml", b"name: tiny")
    with pytest.raises(InputError, match="memorisation"):
        download(s3, dest, "export")
    for passed in (False, True):
        report = {"memorisation": {"passed": passed}, "model_fingerprint": model_fingerprint(s3)}
        open_storage(s3).write("report/report.json", json.dumps(report).encode())
        if not passed:
            with pytest.raises(InputError, match="memorisation check failed"):
                download(s3, dest, "export")
    assert not dest.exists()
    download(s3, dest, "export")
    assert "model_index.json" in files(dest) and "COMPLETE" in files(dest)
    assert f"{s3}/report/report.json" in (dest / "README.md").read_text()
