"""Captions that are longer than the text encoder's tokens are counted, and said by encode and train."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from small_latents import write_latents
from tiny import tiny_components

from medsd_ray.data.latents import read_captions
from medsd_ray.data.shards import INDEX, Sample, ShardWriter, read_index
from medsd_ray.documents import parse_json
from medsd_ray.errors import InputError
from medsd_ray.generation.encode import encode
from medsd_ray.models.save import save_pipeline
from medsd_ray.models.tokens import LongCaptions, cut_in_words, long_captions, merged
from medsd_ray.spec.load import parse_run
from medsd_ray.storage import FolderStorage, to_json
from medsd_ray.training.checks import check_inputs

STEM = "the heart is enlarged and the lungs are clear " * 10
FINDINGS = ("effusion", "pneumonia", "no finding", "nodule")
CAPTIONS = [*(STEM + finding for finding in FINDINGS), "a chest x-ray", STEM + FINDINGS[0], ""]
COUNTS = {"captions": 7, "cut": 5, "different": 4, "equal": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("long") / "tiny"
    save_pipeline(tiny_components(), folder)
    return str(folder)


def test_captions_that_are_cut_are_counted():
    tokenizer = tiny_components().tokenizer
    found = long_captions(tokenizer, CAPTIONS)
    assert found.counts == COUNTS | {"tokens": tokenizer.model_max_length}
    parts = [long_captions(tokenizer, CAPTIONS[:3]), long_captions(tokenizer, CAPTIONS[3:])]
    # As notes of shards, which are JSON, have them.
    assert merged(LongCaptions(**parse_json(to_json(asdict(part)))) for part in parts).counts == found.counts
    assert long_captions(tokenizer, []).counts["cut"] == 0
    assert "5 of 7 captions (4 different ones)" in cut_in_words(found.counts)
    assert "4 different captions are the same without it" in cut_in_words(found.counts)
    assert cut_in_words({}) == cut_in_words(long_captions(tokenizer, CAPTIONS[4:5]).counts) == ""


def test_one_caption_that_just_fits_and_one_that_goes_on():
    tokenizer = tiny_components().tokenizer
    room = tokenizer.model_max_length - 2  # the tokens at both ends
    words = ["heart"] * room
    assert len(tokenizer(" ".join(words))["input_ids"]) == room + 2
    counts = long_captions(tokenizer, [" ".join(words), " ".join([*words, "effusion"])]).counts
    assert (counts["cut"], counts["different"], counts["equal"]) == (1, 1, 2)


def test_encode_and_train_say_it(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shards, latents = str(tmp_path / "shards"), str(tmp_path / "latents")
    writer = ShardWriter(FolderStorage(tmp_path / "shards" / "train"), 10_000, "image", "train", size=16)
    for i, caption in enumerate(CAPTIONS):
        writer.write(Sample(f"s{i}", np.full((16, 16), i, np.uint8), caption, "p", {}))
    assert len(writer.finish().shards) > 1
    encode(shards, latents, model=model)
    assert f"{latents}/train: 5 of 7 captions (4 different ones)" in capsys.readouterr().out
    index = read_index(latents)
    assert COUNTS.items() <= index.meta["captions"].items()
    store = FolderStorage(tmp_path / "latents" / "train")
    assert [text for shard in index.shards for text in read_captions(store, shard.name)] == CAPTIONS
    encode(shards, latents, model=model)
    assert "5 of 7 captions" in capsys.readouterr().out, "of what is complete, too"
    new_word = {"method": "textual_inversion", "tokens": [{"token": "<x>", "initializer": "heart"}]}
    for text_encoder in ("frozen", "full", new_word):
        for known in (True, False):  # an earlier version's index does not say it
            record = store.read_json(INDEX)
            store.write_json(INDEX, {n: v for n, v in record.items() if known or n != "captions"})
            run = {
                "name": "r", "model": model, "data": {"train": latents}, "output": str(tmp_path / "out"),
                "components": {"unet": "full", "text_encoder": text_encoder},
                "training": {"max_steps": 1, "global_batch_size": 1},
            }  # fmt: skip
            check_inputs(parse_run(run))
            assert f"{latents}: 5 of 7 captions (4 different ones)" in capsys.readouterr().out
            store.write_json(INDEX, record)


def test_short_captions_need_no_word(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    components = tiny_components()
    write_latents(str(tmp_path / "latents"), components, model, samples=4)
    run = {
        "name": "r", "model": model, "data": {"train": str(tmp_path / "latents")}, "output": "out",
        "components": {"unet": "full", "text_encoder": "full"},
        "training": {"max_steps": 1, "global_batch_size": 1},
    }  # fmt: skip
    check_inputs(parse_run(run))
    assert "captions" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "data", [b"", b"short", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b"\x02\0\0\0\0\0\0\0{}"]
)
def test_a_shard_that_is_none(tmp_path: Path, data: bytes):
    store = FolderStorage(tmp_path)
    store.write("shard", data)
    with pytest.raises(InputError, match="not a latent shard"):
        read_captions(store, "shard")
