"""The commands of docs/data.md for small sets do what they say: on the sets themselves where MEDSD_TEST_DATA
has them, else on drawn ones with the same columns.
"""

from __future__ import annotations

import csv
import os
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medsd_ray.cli.main import app
from medsd_ray.data.pseudonyms import KEY_VARIABLE
from medsd_ray.data.shards import Sample, iter_samples, list_splits, read_index

DOCUMENT = Path(__file__).parents[2] / "docs/data.md"
SECTION = DOCUMENT.read_text().split("## Small sets, one command each")[1].split("\n## ")[0]
LINES = [shlex.split(line) for line in SECTION.splitlines() if line.startswith("    medsd prepare")]
COMMANDS = {words[2]: words[2:] for words in LINES}
COLUMNS = {
    cells[0].strip("`"): cells[2].split(", ")
    for line in SECTION.splitlines()
    if line.startswith("| `") and (cells := [cell.strip() for cell in line.strip("|").split("|")])
}
PATIENTS, IMAGES = 12, 24
VALUES: dict[str, Callable[[int], str]] = {
    "patient_id": lambda i: f"P{i % PATIENTS}",
    "group_id": lambda i: f"g{i % PATIENTS}",
    "site": lambda i: ("hannover", "eurorad")[i % 2],
    "finding": lambda i: ("No Finding", "Pneumonia")[i % 2],
    "label": lambda i: ("tumour", "no tumour")[i % 2],
    "kind": lambda i: ("bacteria", "")[i % 2],
    "report": lambda i: "" if i % 3 == 0 else f"Report number {i}.",
    "view": lambda i: ("PA", "AP Supine")[i % 2],
    "side": lambda i: ("left", "right")[i % 2],
}


def drawn(folder: Path, columns: list[str]) -> None:
    """A set with these columns, of images that are not square; a mask is white where its image is bright."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = []
    for i in range(IMAGES):
        cell = np.full((12, 12 + i % 3 * 4), 255, np.uint8)
        image = np.kron(rng.integers(0, 2, (5, 4), dtype=np.uint8), cell)
        row = {"image": f"images/{i}.png"}
        Image.fromarray(image).save(folder / row["image"])
        for name in set(columns) & {"mask", "mask_2", "classes"}:
            row[name] = f"images/{i}-{name}.png"
            Image.fromarray(image // 255 * (3 if name == "classes" else 255)).save(folder / row[name])
        row |= {name: VALUES[name](i) if name in VALUES else "x" for name in columns if name not in row}
        if "{report}" not in " ".join(COMMANDS[folder.name]) and "report" in row:
            row["report"] = "A report."
        rows.append(row)
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *([row[name] for name in columns] for row in rows)])
    if folder.name == "nih-cxr":
        lines = [f"images/{i}.png,Pneumonia,{20 + i},25,6,8" for i in range(1, 9)]
        (folder / "boxes.csv").write_text("\n".join(["image,finding,x,y,w,h", *lines]))


@pytest.fixture(params=COMMANDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The set's folder."""
    real = Path(os.environ.get("MEDSD_TEST_DATA") or "/nonexistent", request.param)
    if (real / "metadata.csv").is_file():
        return real
    drawn(tmp_path / request.param, COLUMNS[request.param])
    return tmp_path / request.param


def fitted_share(path: Path, fit: str) -> float:
    """The share of the square that a mask covers, as the geometry says: of a crop, or with borders."""
    inside = np.asarray(Image.open(path).convert("L")) > 0
    (height, width), short = inside.shape, min(inside.shape)
    if fit == "pad":
        return float(inside.sum()) / max(height, width) ** 2
    top, left = (height - short) // 2, (width - short) // 2
    return float(inside[top : top + short, left : left + short].mean())


def test_one_command_prepares_a_set(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(KEY_VARIABLE, "a key for this test")
    monkeypatch.chdir(folder.parent)
    words = list(COMMANDS[folder.name])
    words[1] = str(tmp_path / "out")
    result = CliRunner().invoke(app, ["prepare", *words])
    assert result.exit_code == 0, result.output
    with (folder / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    samples = [one for split in list_splits(words[1]) for one in iter_samples(words[1], split)]
    assert len(samples) == len(rows)
    size = int(words[words.index("--size") + 1]) if "--size" in words else 256
    fit = "pad" if "--fit" in words else "crop"
    assert all(one.image is not None and one.image.shape[:2] == (size, size) for one in samples)
    assert all(one.caption and "{" not in one.caption for one in samples)
    check_masks(folder, samples, rows, words, fit)
    if "--domain-column" in words:
        assert Counter(one.domain for one in samples) == Counter(row["site"] for row in rows)
    patient = words[words.index("--patient-column") + 1] if "--patient-column" in words else "patient_id"
    assert len({one.patient for one in samples}) == len({row[patient] for row in rows})
    for name in ("finding", "label", "side"):
        if name in rows[0] and folder.name != "brain-captions":  # whose diagnoses are nearly one a patient
            assert Counter(one.labels[name] for one in samples) == Counter(row[name] for row in rows)
    if "--boxes" in words:
        with (folder / "boxes.csv").open() as file:
            boxes = {(row["image"], row["finding"]) for row in csv.DictReader(file)}
        assert sum(len(one.masks) for one in samples) == len(boxes)
        assert all(mask.any() for one in samples for mask in one.masks.values())
    assert read_index(words[1]).meta["fit"] == fit


def check_masks(
    folder: Path, samples: list[Sample], rows: list[dict[str, str]], words: list[str], fit: str
) -> None:
    """Each sample has each mask, with the labels of the files, and they cover what those cover."""
    for column in (words[i + 1] for i, word in enumerate(words) if word == "--mask-column"):
        masks = [one.masks[column] for one in samples]
        files = [folder / row[column] for row in rows]
        assert {*np.unique(masks)} == {
            value for file in files for value in np.unique(np.asarray(Image.open(file)))
        }
        covered = np.mean([(mask > 0).mean() for mask in masks])
        assert covered == pytest.approx(np.mean([fitted_share(file, fit) for file in files]), abs=0.004)


def test_the_document_has_ten_sets():
    assert len(COMMANDS) == len(COLUMNS) == 10 and COMMANDS.keys() == COLUMNS.keys()
