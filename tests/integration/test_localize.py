"""`medsd localize` on drawn images whose findings are known, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import assert_refused, medsd_here

from medsd_ray.data.prepare import prepare
from medsd_ray.data.sources.request import SourceRequest


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("shards"))
    prepare(SourceRequest("40", "phantom", size=64), folder, splits="0.4,0.2,0.4")
    return folder


def test_every_finding_of_the_judging_split_is_looked_for_once(shards: str, tmp_path: Path):
    words = [
        "localize",
        "medsd-small",
        "--real",
        shards,
        "--word",
        "effusion=pleural effusion",
        "--seed",
        "2",
    ]
    first = medsd_here(*words, "--out", tmp_path / "a", "--num-images", "3")
    assert first.returncode == 0, first.stderr
    report = json.loads((tmp_path / "a/report.json").read_text())
    assert report["figures"]["images"] == 3 and report["map_size"] == [8, 8]
    assert report["figures"]["named"] > 0
    assert 0.5 < report["figures"]["auroc_of_perfect"] <= 1.0
    assert report["figures"]["auroc_interval_reason"].startswith("too few")
    assert [row["finding"] for row in report["by_finding"]] == ["effusion"]
    page = (tmp_path / "a/report.html").read_text()
    assert page.count("<img") == 3 and "pleural effusion" in page
    assert {path.name for path in (tmp_path / "a").glob("*.png")} == {"00.png", "01.png", "02.png"}

    again = medsd_here(*words, "--out", tmp_path / "a", "--num-images", "3")
    assert again.returncode == 0 and "already there" in again.stdout
    # Words that no caption has: all of the caption's tokens count, and the report says so.
    other = medsd_here(*words, "--out", tmp_path / "b", "--num-images", "3", "--word", "effusion=zebra")
    assert other.returncode == 0
    both = medsd_here(*words[:4], "--out", tmp_path / "c", "--num-images", "3", "--word", "effusion=zebra")
    assert (
        json.loads((tmp_path / "c/report.json").read_text())["figures"]["named"] == 0.0
        and not both.returncode
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mask", "nodule"], "no mask 'nodule' here, only effusion"),
        (["--word", "effusion"], "write it as effusion='pleural effusion'"),
        (["--word", "nodule=x"], "no mask 'nodule' here"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_written(
    words: list[str], said: str, shards: str, tmp_path: Path
):
    out = tmp_path / "out"
    assert_refused(medsd_here("localize", "medsd-small", "--real", shards, "--out", out, *words), said)
    assert not out.exists()


def test_images_of_another_size_are_refused(tmp_path: Path):
    prepare(SourceRequest("12", "phantom", size=32), str(tmp_path / "shards"), splits="0.4,0.2,0.4")
    words = ["localize", "medsd-small", "--real", tmp_path / "shards", "--out", tmp_path / "out"]
    assert_refused(medsd_here(*words), "images of 32 px, but the model makes 64 px")
    assert not (tmp_path / "out").exists()
