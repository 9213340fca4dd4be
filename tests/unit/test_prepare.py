"""`prepare` as a whole: what is fine is written, once, the same way each time, and stops are gone on from."""

from __future__ import annotations

import csv
import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from medsd_ray.data.prepare import parse_bytes, prepare
from medsd_ray.data.pseudonyms import KEY_VARIABLE, key_file
from medsd_ray.data.shards import SPLITS, Sample, ShardWriter, iter_samples, list_splits
from medsd_ray.data.sources.pixels import ONE_VALUE
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.errors import InputError

HEADER = ["image", "patient_id", "finding", "report"]
IMAGES, PATIENTS = 40, 10


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv(KEY_VARIABLE, "a key for this test")


def rows() -> list[list[str]]:
    return [
        [
            f"MRN{i % PATIENTS:04d}_{i}.png",
            f"MRN{i % PATIENTS:04d}",
            ["Effusion", "None"][i % 2],
            f"Report {i}.",
        ]
        for i in range(IMAGES)
    ]


def write_table(folder: Path, lines: list[list[str]]) -> None:
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *lines])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    write_table(folder, rows())
    rng = np.random.default_rng(0)
    for name, *_ in rows():
        Image.fromarray(rng.integers(0, 256, (24, 16), dtype=np.uint8)).save(folder / name)
    return folder


def make(source: object, dest: Path, **more) -> None:
    """Shards of 20 KiB with images of 16 pixels, where `more` does not say other."""
    of_shards = {name: more.pop(name) for name in ("shard_size", "splits", "skip_bad") if name in more}
    prepare(
        SourceRequest(str(source), **{"size": 16, **more}), str(dest), **{"shard_size": "20KiB", **of_shards}
    )


def samples(dest: Path) -> dict[str, list[Sample]]:
    return {split: list(iter_samples(str(dest), split)) for split in list_splits(str(dest))}


def contents(dest: Path) -> dict[str, bytes]:
    return {str(path.relative_to(dest)): path.read_bytes() for path in dest.rglob("*") if path.is_file()}


def root(dest: Path) -> dict:
    return json.loads((dest / "index.json").read_text())


def test_every_image_once_and_no_patient_in_two_splits(source: Path, tmp_path: Path):
    make(source, tmp_path / "out")
    parts = samples(tmp_path / "out")
    captions = [sample.caption for part in parts.values() for sample in part]
    assert sorted(captions) == sorted(f"Report {i}." for i in range(IMAGES))
    patients = {split: {sample.patient for sample in part} for split, part in parts.items()}
    assert {split: len(names) for split, names in patients.items()} == {
        "train": 8,
        "validation": 1,
        "test": 1,
    }
    assert sum(map(len, patients.values())) == len(set.union(*patients.values())) == PATIENTS
    keys = [sample.key for part in parts.values() for sample in part]
    assert len(set(keys)) == IMAGES
    assert all(s.image is not None and s.image.shape == (16, 16) for part in parts.values() for s in part)


def test_names_and_patients_of_the_source_stay_there(source: Path, tmp_path: Path):
    make(source, tmp_path / "out")
    everything = b"\n".join(
        [*contents(tmp_path / "out").values(), *map(str.encode, contents(tmp_path / "out"))]
    )
    for secret in (b"MRN0", b"a key for this test", str(source).encode()):
        assert secret not in everything


def test_the_root_index_is_a_manifest(source: Path, tmp_path: Path):
    make(source, tmp_path / "out", seed=3)
    value = root(tmp_path / "out")
    assert (value["kind"], value["skipped"], value["plan"]["source"], value["plan"]["seed"]) == (
        "image",
        0,
        "folder",
        3,
    )
    assert "--kind folder" in value["command"] and "--size 16" in value["command"] and value["version"]
    counts = [split["labels"]["finding"] for split in value["splits"].values()]
    assert sum(count.get("Effusion", 0) for count in counts) == IMAGES // 2
    assert sum(split["samples"] for split in value["splits"].values()) == IMAGES
    assert all("report" not in split["labels"] for split in value["splits"].values())


def test_the_order_of_rows_does_not_matter(source: Path, tmp_path: Path):
    make(source, tmp_path / "one")
    shuffled = rows()
    random.Random(0).shuffle(shuffled)
    write_table(source, shuffled)
    make(source, tmp_path / "other")
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


def test_a_second_time_does_nothing(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make(source, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    capsys.readouterr()
    make(source, tmp_path / "out")
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_other_arguments_or_another_source_are_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    make(source, out)
    before = contents(out)
    for change, named in (
        ({"size": 24}, "size"),
        ({"seed": 1}, "seed"),
        ({"splits": "0.5,0.25,0.25"}, "splits"),
    ):
        with pytest.raises(InputError, match=f"differ in {named}; delete it or choose another DEST"):
            make(source, out, **change)
    write_table(source, [*rows()[:-1], [*rows()[-1][:3], "Another report."]])
    with pytest.raises(InputError, match="differ in the source"):
        make(source, out)
    write_table(source, rows())
    monkeypatch.setenv(KEY_VARIABLE, "another key for this test")
    with pytest.raises(InputError, match="pseudonym key"):
        make(source, out)
    assert contents(out) == before


def test_an_interrupted_run_goes_on_to_the_same_shards(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (source / rows()[3][0]).write_bytes(b"not an image")
    for dest in ("whole", "stopped"):
        (tmp_path / dest).mkdir()
    with pytest.raises(InputError):
        make(source, tmp_path / "whole")
    close, left = ShardWriter._close, 3

    def interrupted(writer: ShardWriter) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        close(writer)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ShardWriter, "_close", interrupted)
        make(source, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "index.json").exists()
    first = tmp_path / "stopped" / "train" / "shard-00000.tar"
    written = first.stat().st_mtime_ns
    with pytest.raises(InputError, match="differ in size"):
        make(source, tmp_path / "stopped", size=24)
    with pytest.raises(InputError, match="not an image"):
        make(source, tmp_path / "stopped")
    assert first.stat().st_mtime_ns == written
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_one_bad_sample_is_the_last_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = source / rows()[5][0]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        InputError,
        match=rf"^metadata\.csv line 7: {path.name}: .*; the other 39 samples are in .*, complete$",
    ):
        make(source, tmp_path / "out")
    assert capsys.readouterr().err == ""
    assert (
        sum(map(len, samples(tmp_path / "out").values())) == IMAGES - 1
        and root(tmp_path / "out")["skipped"] == 1
    )
    make(source, tmp_path / "out")  # nothing is left to do
    assert "1 skipped" in capsys.readouterr().out


def test_bad_samples_are_listed_and_a_flood_is_cut(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (source / rows()[0][0]).write_bytes(b"")
    absent = [[f"gone{i}.png", "p", "x", "text"] for i in range(2)]
    write_table(source, rows() + absent)
    with pytest.raises(InputError, match=r"^3 samples could not be used \(listed above\); the other 39 "):
        make(source, tmp_path / "out")
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == [
        "metadata.csv line 42",
        "metadata.csv line 43",
        "metadata.csv line 2",
    ]

    write_table(source, rows() + [[f"gone{i}.png", "p", "x", "text"] for i in range(50)])
    with pytest.raises(InputError, match=r"^51 samples could not be used \(20 of them listed above\)"):
        make(source, tmp_path / "flood")
    assert len(capsys.readouterr().err.splitlines()) == 21


def test_nothing_usable_writes_nothing(source: Path, tmp_path: Path):
    write_table(source, [["gone.png", "p", "x", "text"]])
    with pytest.raises(InputError, match=r"no sample that can be used .*gone\.png"):
        make(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_reports_that_may_name_a_person_are_warned_of(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    lines = rows()
    lines[4][3] = "Seen by Dr. Zwingli."
    write_table(source, lines)
    make(source, tmp_path / "out")
    said = capsys.readouterr()
    assert (
        "1 sample has a title and a name in the report" in said.err and "Zwingli" not in said.err + said.out
    )
    (named,) = [s.key for part in samples(tmp_path / "out").values() for s in part if "Zwingli" in s.caption]
    warnings = [
        json.loads((tmp_path / "out" / split / "index.json").read_text())["warnings"] for split in SPLITS
    ]
    assert [value["keys"] for warning in warnings for value in warning.values()] == [[named]]


def test_phantoms_need_no_key_and_keep_their_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(KEY_VARIABLE)
    make(20, tmp_path / "out", kind="phantom", size=32)
    parts = samples(tmp_path / "out")
    assert [len(parts[split]) for split in SPLITS] == [16, 2, 2]
    for sample in (s for part in parts.values() for s in part):
        assert ("effusion" in sample.masks) == (sample.labels["finding"] == "Effusion")
    assert not key_file().exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 0}, "--size 0"),
        ({"size": 100}, "--size 100"),
        ({"shard_size": "many"}, "--shard-size 'many'"),
        ({"shard_size": "0"}, "--shard-size '0'"),
        ({"splits": "0.5,0.5"}, "--splits '0.5,0.5'"),
        ({"images": "somewhere"}, "there is no such folder"),
        ({"kind": "phantom"}, "--kind phantom give how many"),
        ({"patient_column": "who"}, "no column 'who'"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    source: Path, tmp_path: Path, change: dict, words: str
):
    with pytest.raises(InputError, match=words):
        make(source, tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_refused(source: Path, tmp_path: Path):
    (tmp_path / "out" / "train").mkdir(parents=True)
    (tmp_path / "out" / "train" / "shard-00000.tar").write_bytes(b"someone's")
    with pytest.raises(InputError, match="did not leave there"):
        make(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "expected"), [("64MiB", 2**26), ("1GB", 10**9), ("2K", 2048), ("1.5 kib", 1536), ("100", 100)]
)
def test_sizes_in_words(text: str, expected: int):
    assert parse_bytes(text) == expected


def test_real_x_rays(test_data: Path, tmp_path: Path):
    make(test_data / "nih-cxr", tmp_path / "out", size=64, shard_size="1MiB")
    parts = samples(tmp_path / "out")
    with (test_data / "nih-cxr" / "metadata.csv").open() as file:
        table = list(csv.DictReader(file))
    assert sum(map(len, parts.values())) == len(table)
    patients = [{sample.patient for sample in part} for part in parts.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == len({row["patient_id"] for row in table})
    for finding in ("No Finding", "Pneumonia"):
        counted = sum(sample.labels["finding"] == finding for part in parts.values() for sample in part)
        assert counted == sum(row["finding"] == finding for row in table)
    assert all(
        s.image is not None and s.image.shape == (64, 64) and s.image.std() > 10 for s in parts["train"]
    )
    urls = sorted(str(path) for path in (tmp_path / "out" / "train").glob("*.tar"))
    others = list(webdataset.WebDataset(urls, shardshuffle=False).decode("l8"))
    assert [other["__key__"] for other in others] == [sample.key for sample in parts["train"]]


def with_bad_samples(source: Path, count: int) -> Path:
    for name, *_ in rows()[:count]:
        (source / name).write_bytes(b"no image")
    return source


@pytest.mark.parametrize(("allowed", "refused"), [("3", "2"), ("7.5%", "7.4%"), ("100%", "0"), ("40", "0%")])
def test_bad_samples_up_to_a_limit_are_left_out(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], allowed: str, refused: str
):
    with_bad_samples(source, 3)
    make(source, tmp_path / "within", skip_bad=allowed)
    assert "warning: 3 samples could not be used (listed above)" in capsys.readouterr().err
    with pytest.raises(InputError, match="3 samples could not be used"):
        make(source, tmp_path / "beyond", skip_bad=refused)
    assert contents(tmp_path / "within") == contents(tmp_path / "beyond")
    assert root(tmp_path / "within")["skipped"] == 3
    assert sum(len(part) for part in samples(tmp_path / "within").values()) == IMAGES - 3


@pytest.mark.parametrize("text", ["-1", "101%", "many", "", "1e9", "9" * 5000])
def test_a_limit_of_bad_samples_that_is_none(source: Path, tmp_path: Path, text: str):
    with pytest.raises(InputError, match=r"--skip-bad .* give a number of samples, such as 20, or a share"):
        make(source, tmp_path / "out", skip_bad=text)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"size": 10**9}, "--size 1000000000: give a multiple of 8 from 8 to 4096"),
        ({"size": 4104}, "give a multiple of 8"),
        ({"shard_size": "9" * 400}, "--shard-size '9999"),
        ({"shard_size": "17GiB"}, "at most 16GiB"),
        ({"kind": "phantom", "source": "1" + "0" * 12}, "at most 1,000,000"),
        ({"kind": "phantom", "source": "9" * 5000}, "at most 1,000,000"),
        (
            {"kind": "phantom", "source": "5", "frames": "all"},
            "--kind phantom does not take it",
        ),
    ],
)
def test_sizes_from_outside_have_bounds(source: Path, tmp_path: Path, more: dict, words: str):
    with pytest.raises(InputError, match=words) as caught:
        make(more.pop("source", source), tmp_path / "out", **more)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    assert not (tmp_path / "out").exists()


def test_an_image_of_one_value_is_said_with_its_name(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name, *_ in rows()[:2]:
        Image.fromarray(np.full((24, 16), 7, np.uint8)).save(source / name)
    make(source, tmp_path / "out")
    said = capsys.readouterr().err
    for name, *_ in rows()[:2]:
        assert f"{name}: an image of one value" in said
    assert "warning: 2 samples have an image of one value" in said
    assert root(tmp_path / "out")["warnings"] == {ONE_VALUE: 2}
    for secret in (rows()[0][0], "MRN0"):
        assert all(secret.encode() not in data for data in contents(tmp_path / "out").values())


def test_a_report_of_any_length_costs_no_more_than_that_and_has_a_limit(source: Path, tmp_path: Path):
    lines = rows()
    lines[0][3], lines[1][3], lines[2][3] = "a" * 40_000, "x-" * 20_000, "word " * 21_000
    write_table(source, lines)
    start = time.monotonic()
    with pytest.raises(InputError, match=r"a report of 104,999 characters; shorten it to at most 100,000"):
        make(source, tmp_path / "out")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("splits", [[], {"train": 1}, {"train": {"samples": "8"}}, None])
def test_a_damaged_index_of_a_finished_dest_is_refused(source: Path, tmp_path: Path, splits: object):
    make(source, tmp_path / "out")
    index = tmp_path / "out" / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"splits": splits}))
    with pytest.raises(InputError, match=r"index\.json: damaged \(splits"):
        make(source, tmp_path / "out")
