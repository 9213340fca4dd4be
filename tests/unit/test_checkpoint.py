"""Checkpoints on a real folder: visible only when complete, checked when read, kept and deleted as asked."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from medsd_ray import retries
from medsd_ray.data.mixture import SourceMix
from medsd_ray.errors import InputError, RefusedError, UnreachableError
from medsd_ray.runs.checkpoint_reader import CheckpointReader, choose_checkpoint, load_weights
from medsd_ray.runs.checkpoints import FORMAT, VALIDATION, newest_complete, read_best, saved_steps
from medsd_ray.spec.load import parse_run
from medsd_ray.spec.training import Checkpoint
from medsd_ray.storage import COMPLETE, FolderStorage
from medsd_ray.training.checked_run import CheckedRun
from medsd_ray.training.checkpoint_writer import CheckpointWriter, drop_unusable
from medsd_ray.training.collectives import Collectives
from medsd_ray.training.resume import check_same_run

WEIGHTS = {"unet.a": torch.arange(6.0).view(2, 3), "text_encoder.b": torch.arange(3.0) + 10}


@pytest.fixture(scope="module")
def collectives() -> Iterator[Collectives]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Collectives(torch.device("cpu"))
    dist.destroy_process_group()


@pytest.fixture
def output(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path / "run")


def writer_for(
    output: FolderStorage, collectives: Collectives, warnings: list[str] | None = None, **keep: Any
) -> CheckpointWriter:
    return CheckpointWriter(
        output, collectives, Checkpoint(**keep), warn=(warnings if warnings is not None else []).append
    )


def save(
    writer: CheckpointWriter, step: int, validation_loss: float | None = None, ema: bool = True
) -> str | None:
    tensors, moments = {}, {}
    for name, value in WEIGHTS.items():
        for start, end in ((0, 2), (2, value.numel())):
            part = value.flatten()[start:end]
            tensors[f"weight:{name}@{start}"] = part + step
            tensors[f"ema:{name}@{start}"] = part - step
            moments |= {f"{kind}:{name}@{start}": part * 2 for kind in ("exp_avg", "exp_avg_sq")}
    fragments = {
        name: {"shape": list(value.shape), "pieces": [[0, 2, 0], [2, value.numel() - 2, 0]]}
        for name, value in WEIGHTS.items()
    }
    description = {
        "format": FORMAT, "step": step, "ema": ema, "validation_loss": validation_loss,
        "validation": VALIDATION, "fragments": fragments,
    }  # fmt: skip
    files = {"rank-00000.safetensors": tensors, "rank-00000.optimizer.safetensors": moments}
    writer.save(step, lambda: files, description)
    return writer.wait()


def test_weights_come_back_averaged_or_raw(output: FolderStorage, collectives: Collectives):
    assert newest_complete(output) is None
    writer = writer_for(output, collectives)
    assert save(writer, 3) is None and writer.last_step == 3
    store = newest_complete(output)
    assert store is not None
    for raw, shift in ((True, 3), (False, -3)):
        weights = load_weights(store, raw=raw)
        assert {c: set(names) for c, names in weights.items()} == {"unet": {"a"}, "text_encoder": {"b"}}
        assert torch.equal(weights["unet"]["a"], WEIGHTS["unet.a"] + shift)
        assert torch.equal(weights["text_encoder"]["b"], WEIGHTS["text_encoder.b"] + shift)


def test_any_range_of_moments(output: FolderStorage, collectives: Collectives, tmp_path: Path):
    save(writer_for(output, collectives), 1)
    store = newest_complete(output)
    assert store is not None
    reader = CheckpointReader(store, tmp_path / "copy")
    assert reader.read("unet.a", "exp_avg", 1, 5).tolist() == [2, 4, 6, 8]
    with pytest.raises(InputError, match=r"exp_avg of unet\.a is not whole"):
        reader.read("unet.a", "exp_avg", 1, 7)


def test_no_averages_means_raw_weights(output: FolderStorage, collectives: Collectives):
    save(writer_for(output, collectives), 1, ema=False)
    store = newest_complete(output)
    assert store is not None
    assert torch.equal(load_weights(store, raw=False)["unet"]["a"], WEIGHTS["unet.a"] + 1)


def test_last_ones_and_best_are_kept(output: FolderStorage, collectives: Collectives):
    writer = writer_for(output, collectives, keep_last=2)
    for step, loss in enumerate([0.5, 0.2, 0.4, None, 0.3], start=1):
        save(writer, step, loss)
    assert saved_steps(output) == ([2, 4, 5], [])
    best = read_best(output)
    assert best and (best["step"], best["validation_loss"], best["figure"]) == (2, 0.2, "validation_loss")
    writer = writer_for(output, collectives, keep_last=1, keep_best=False)
    save(writer, 6, 0.9)
    assert saved_steps(output) == ([6], [])


def test_what_belongs_to_a_checkpoint_is_written_before_its_mark(
    output: FolderStorage, collectives: Collectives
):
    seen: list[list[str]] = []
    writer = CheckpointWriter(
        output,
        collectives,
        Checkpoint(),
        warn=pytest.fail,
        before_complete=lambda: seen.append(output.list()),
    )
    save(writer, 5)
    writer.wait()
    assert len(seen) == 1 and seen[0] and not any(key.endswith("COMPLETE") for key in seen[0])
    assert output.exists("checkpoints/step-00000005/COMPLETE")


def test_a_checkpoint_without_its_mark_is_not_there(output: FolderStorage, collectives: Collectives):
    writer = writer_for(output, collectives)
    save(writer, 1)
    save(writer, 2)
    output.delete(f"checkpoints/step-00000002/{COMPLETE}")
    assert saved_steps(output) == ([1], [2])
    found = newest_complete(output)
    assert found is not None and found.url.endswith("step-00000001")
    drop_unusable(output, 1)
    assert not output.list("checkpoints/step-00000002/")


@pytest.mark.parametrize(
    "file", ["rank-00000.safetensors", "rank-00000.optimizer.safetensors", "checkpoint.json"]
)
@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_damaged_newest_is_told_and_the_one_before_is_taken(
    output: FolderStorage, collectives: Collectives, tmp_path: Path, file: str, damage: str
):
    writer, warnings = writer_for(output, collectives), []
    save(writer, 1)
    save(writer, 2)
    path = output.root / "checkpoints/step-00000002" / file
    if damage == "flip":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    reader = choose_checkpoint(output, tmp_path / "copy", warnings.append)
    assert reader is not None and reader.description["step"] == 1
    assert len(warnings) == 1 and "step 2" in warnings[0] and file in warnings[0] and "\n" not in warnings[0]


@pytest.mark.parametrize(
    ("file", "left"),
    [
        ("COMPLETE", b""),
        ("COMPLETE", b'{\n "files": {\n  "chec'),
        ("COMPLETE", bytes(300)),
        ("COMPLETE", b"[]"),
        ("checkpoint.json", b""),
        ("rank-00000.safetensors", b""),
        ("rank-00000.optimizer.safetensors", bytes(64)),
        ("rank-00000.safetensors", None),
    ],
)
def test_what_a_power_cut_leaves_is_passed_over_by_who_resumes_and_who_generates(
    output: FolderStorage, collectives: Collectives, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    file: str, left: bytes | None,
):  # fmt: skip
    writer, warnings = writer_for(output, collectives), []
    save(writer, 1)
    save(writer, 2)
    path = output.root / "checkpoints/step-00000002" / file
    path.unlink() if left is None else path.write_bytes(left)
    for _ in range(2):
        found = newest_complete(output)
        assert found is not None and found.url.endswith("step-00000001")
    (said,) = capsys.readouterr().err.splitlines()  # once
    assert said.startswith("warning: the checkpoint of step 2 is damaged and left aside:") and file in said
    reader = choose_checkpoint(output, tmp_path / "copy", warnings.append)
    assert reader is not None and reader.description["step"] == 1 and len(warnings) == 1
    # Where there is no other, who reads it says what is wrong.
    output.delete_tree("checkpoints/step-00000001")
    found = newest_complete(output)
    assert found is not None and found.url.endswith("step-00000002") and not capsys.readouterr().err


@pytest.mark.parametrize("kind", [UnreachableError, RefusedError])
def test_a_store_that_gives_nothing_is_no_damage(
    output: FolderStorage,
    collectives: Collectives,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type,
):
    """Were the newest left aside, going on from the one before would delete it."""
    writer = writer_for(output, collectives)
    save(writer, 1)
    save(writer, 2)
    read, away = FolderStorage.read, [True]

    def once_away(store: FolderStorage, key: str, most: int | None = None) -> bytes:
        if away and "step-00000002" in store.url:
            away.clear()
            raise kind("away")
        return read(store, key, most)

    monkeypatch.setattr(FolderStorage, "read", once_away)
    with pytest.raises(kind):
        choose_checkpoint(output, tmp_path / "copy", pytest.fail)
    away.append(True)
    with pytest.raises(kind):
        newest_complete(output)
    reader = choose_checkpoint(output, tmp_path / "copy", pytest.fail)
    assert reader is not None and reader.description["step"] == 2


def test_all_damaged_is_bad_input(output: FolderStorage, collectives: Collectives, tmp_path: Path):
    save(writer_for(output, collectives), 1)
    (output.root / "checkpoints/step-00000001/rank-00000.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="damaged"):
        choose_checkpoint(output, tmp_path / "copy", lambda text: None)


def test_a_failed_save_is_told_and_the_next_one_works(
    output: FolderStorage, collectives: Collectives, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(retries.time, "sleep", lambda seconds: None)
    output.root.mkdir()
    blocker = output.root / "checkpoints"
    blocker.write_text("a file where the folder should be")
    warnings: list[str] = []
    writer = writer_for(output, collectives, warnings)
    assert save(writer, 1) is not None
    assert len(warnings) == 1 and "step 1" in warnings[0]
    blocker.unlink()
    assert save(writer, 2) is None
    assert saved_steps(output) == ([2], [])


def test_retries_are_bounded(monkeypatch: pytest.MonkeyPatch):
    waits: list[float] = []
    monkeypatch.setattr(retries.time, "sleep", waits.append)
    outcomes = iter([OSError(), OSError(), "done"])

    def work() -> str:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert retries.with_retries(work) == "done"
    assert waits == [1.0, 2.0]
    with pytest.raises(ZeroDivisionError):
        retries.with_retries(lambda: str(1 // 0))
    assert waits == [1.0, 2.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0]


def test_a_refusal_is_not_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, output: FolderStorage, collectives: Collectives
):
    """A full disk is said at once, and a later checkpoint may succeed."""
    monkeypatch.setattr(retries.time, "sleep", lambda seconds: pytest.fail("it waited"))
    warnings: list[str] = []
    writer = writer_for(output, collectives, warnings)
    with monkeypatch.context() as full:
        full.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        assert save(writer, 1) is not None
    (said,) = warnings
    assert "step 1 was not saved" in said and "No space left; free some space" in said
    assert save(writer, 2) is None and saved_steps(output)[0] == [2]


def test_an_absent_file_is_an_answer(monkeypatch: pytest.MonkeyPatch, output: FolderStorage):
    monkeypatch.setattr(retries.time, "sleep", lambda seconds: pytest.fail("it waited"))
    with pytest.raises(FileNotFoundError):
        retries.with_retries(lambda: output.read("absent"))


def run_values(**training: Any) -> dict[str, Any]:
    return {
        "name": "r", "data": {"train": "latents"}, "components": {"unet": "full"}, "output": "out",
        "training": {"max_steps": 8, "global_batch_size": 8, **training},
    }  # fmt: skip


def description_of(values: dict[str, Any], fingerprints: dict[str, str]) -> dict[str, Any]:
    return {"spec": parse_run(values).model_dump(mode="json"), "fingerprints": fingerprints}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"components": {"unet": "full", "text_encoder": "full"}}, "components.text_encoder.method"),
        ({"objective": {"snr_gamma": None}}, "objective.snr_gamma"),
        ({"objective": {"drift": {"delta": 0.1}}}, "objective.drift.delta"),
        ({"objective": {"drift": {"where": "init_only"}}}, "objective.drift.where"),
        (run_values(global_batch_size=16), "training.global_batch_size"),
        (run_values(max_steps=9), "training.max_steps"),
        (run_values(zero_stage=3, micro_batch_size=2, precision="bf16", log_every=3), None),
        ({"resources": {"num_workers": 2}, "output": "moved", "checkpoint": {"every_steps": 2}}, None),
    ],
)
def test_a_resumed_run_is_the_same_run(change: dict[str, Any], named: str | None):
    fingerprints = {"model": "m", "data": "d"}
    description = description_of(run_values(), fingerprints)
    checked = CheckedRun(parse_run(run_values() | change), "", SourceMix(()), None, None, fingerprints)
    if named is None:
        check_same_run(checked, description, "it")
    else:
        with pytest.raises(InputError, match=named):
            check_same_run(checked, description, "it")
    with pytest.raises(InputError, match="data is not the one"):
        check_same_run(
            CheckedRun(parse_run(run_values()), "", SourceMix(()), None, None, fingerprints | {"data": "e"}),
            description,
            "it",
        )
