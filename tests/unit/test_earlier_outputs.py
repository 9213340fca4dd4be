"""What an earlier version wrote is read: shards, latents, a run's checkpoint and record, a study."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from earlier import EA425E8

from medsd_ray.data.latents import LatentReader, read_notes
from medsd_ray.data.prepare import prepare
from medsd_ray.data.shards import iter_samples, list_splits, open_split
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.errors import InputError
from medsd_ray.models.load import load_components
from medsd_ray.models.resolve import model_fingerprint
from medsd_ray.runs.checkpoint_reader import CheckpointReader
from medsd_ray.runs.checkpoints import newest_complete, saved_steps
from medsd_ray.runs.record import read_run
from medsd_ray.spec.load import parse_run, parse_study
from medsd_ray.storage import FolderStorage
from medsd_ray.tuning.study_record import StudyRecord

SAMPLES = {"train": 8, "validation": 4, "test": 4}


@pytest.mark.parametrize(("split", "count"), SAMPLES.items())
def test_image_shards_and_their_latents_are_read(split: str, count: int):
    assert list_splits(str(EA425E8 / "shards")) == list_splits(str(EA425E8 / "latents")) == list(SAMPLES)
    samples = list(iter_samples(str(EA425E8 / "shards"), split))
    assert len(samples) == count
    assert all(sample.image is not None and sample.image.shape == (64, 64) for sample in samples)
    assert {sample.labels["finding"] for sample in samples} <= {"No Finding", "Effusion"}
    for sample in samples:  # the one mask of the format of then is a phantom's effusion
        assert list(sample.masks) == ["effusion"] * (sample.labels["finding"] == "Effusion")
        assert all(set(np.unique(mask)) == {0, 255} for mask in sample.masks.values())

    store, index = open_split(str(EA425E8 / "latents"), split)
    assert isinstance(store, FolderStorage) and (index.kind, index.samples) == ("latent", count)
    assert index.meta["vae_fingerprint"] == model_fingerprint("medsd-small", only=("vae",))
    assert index.meta["text_encoder_fingerprint"] == model_fingerprint("medsd-small", only=("text_encoder",))
    reader = LatentReader()
    with pytest.raises(InputError, match=r"of an earlier version, without labels and masks.*encode again"):
        read_notes(store.root / index.shards[0].name)
    for shard in index.shards:
        for row in range(shard.samples):
            tensors = reader.row(store.root / shard.name, row)
            assert tensors["mean"].shape == tensors["logvar"].shape == (8, 8, 8)
            assert all(torch.isfinite(tensor.float()).all() for tensor in tensors.values())
            assert tensors["text_embeddings"].shape == np.asarray(index.meta["empty_embedding"]).shape


def test_shards_of_an_earlier_version_are_complete_for_the_same_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(EA425E8 / "shards", tmp_path / "shards")
    asked = SourceRequest("16", "phantom", size=64)
    prepare(asked, str(tmp_path / "shards"), splits="0.5,0.25,0.25")
    assert "complete already" in capsys.readouterr().out
    with pytest.raises(InputError, match="differ in fit"):
        prepare(asked, str(tmp_path / "shards"), splits="0.5,0.25,0.25", fit="pad")


def test_a_checkpoint_is_read_and_changes_the_model_that_it_adapts(tmp_path: Path):
    output = FolderStorage(EA425E8 / "run")
    assert saved_steps(output) == ([2], [])
    newest = newest_complete(output)
    assert newest is not None
    reader = CheckpointReader(newest, tmp_path)
    assert reader.description["step"] == 2 and reader.description["world_size"] == 2
    reader.verify()
    for name in reader.shapes:
        for kind in ("weight", "ema", "exp_avg", "exp_avg_sq"):
            assert torch.isfinite(reader.parameter(name, kind)).all()

    base, adapted = load_components("medsd-small"), load_components(str(EA425E8 / "run"))
    changed = [
        name
        for (name, before), after in zip(base.unet.named_parameters(), adapted.unet.parameters(), strict=True)
        if not torch.equal(before, after)
    ]
    assert changed and all(".attn" in name for name in changed)


def test_the_record_of_an_unfinished_run_is_read():
    record = read_run(str(EA425E8 / "run"))
    assert [line["step"] for line in record.metrics if "loss" in line] == [1, 2] and not record.result
    run = parse_run(yaml.safe_load(record.spec))
    assert run.components and run.components.trained == ["unet"]
    assert parse_run(record.manifest["spec"]) == run  # without the fields of later versions


def test_a_study_that_was_interrupted_is_read():
    output = FolderStorage(EA425E8 / "study")
    study = parse_study(yaml.safe_load(output.read("study.yaml")))
    ledger = StudyRecord(study, output, {})
    assert [trial["status"] for trial in ledger.trials] == ["done", "pending"]
    assert ledger.total == 2 and not ledger.finished
    assert ledger.trials[0]["metrics"]["validation_loss"] > 0
    assert saved_steps(output.child("trials/0001")) == ([8], [])
    assert output.read_json("study.json")["state"] == "interrupted"
