"""A reader study without a browser: how it is made, what the page's addresses give away (nothing), and the
report.
"""

from __future__ import annotations

import csv
import io
import json
import re
import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import assert_refused, medsd
from fastapi.testclient import TestClient
from PIL import Image
from reader_study import SIZE, generated_images, make_study, real_shards

from medsd_ray.errors import InputError
from medsd_ray.reader_study.answers import Answer, Answers
from medsd_ray.reader_study.assembly import StudyImage, choose, new_study, uncompressed_png
from medsd_ray.reader_study.report import report_study, summary
from medsd_ray.reader_study.serve import build_app, serve_study
from medsd_ray.reader_study.study import ANSWERS, KEY, open_study, order, reader_name


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("readers"))


def client(folder: Path) -> TestClient:
    study = open_study(folder)
    return TestClient(build_app(study, Answers(folder / ANSWERS), None), base_url="http://localhost")


def key_of(folder: Path) -> dict[str, dict]:
    return json.loads((folder / KEY).read_text())["images"]


def chunks(png: bytes) -> list[tuple[bytes, int]]:
    """(type, length) of each chunk of a PNG file."""
    found, at = [], 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        found.append((png[at + 4 : at + 8], length))
        at += 12 + length
    return found


RATING = {"realism": 4, "abnormal": True, "region": [0.1, 0.2, 0.3, 0.4], "judged": "real", "seconds": 2.5}


# --- how it is made


def test_equal_groups_with_their_truth(study: Path):
    key = key_of(study)
    assert Counter(one["group"] for one in key.values()) == {"real": 12, "generated": 12}
    for one in key.values():
        assert one["abnormal"] == ("No pleural effusion" not in one["text"])
    assert json.loads((study / KEY).read_text())["reference"] == "the test split"
    assert (study / KEY).stat().st_mode & 0o077 == 0


def test_the_images_are_those_of_their_sources(study: Path):
    samples = {sample.key: sample.image for sample in real_shards(study.parent / "again")}
    made = study.parent / "made"
    for name, one in key_of(study).items():
        shown = np.asarray(Image.open(study / "images" / f"{name}.png"))
        source = (
            samples[one["source"]]
            if one["group"] == "real"
            else np.asarray(Image.open(made / one["source"]))[..., 0]
        )
        np.testing.assert_array_equal(shown, source)


def test_names_come_from_the_system_and_the_choice_from_the_seed(study: Path, tmp_path: Path):
    """Who knows the seed can draw the choice again, and must not find the groups by it."""
    again = make_study(tmp_path, seed=0)
    one, other = key_of(study), key_of(again)
    assert not set(one) & set(other)
    assert {o["source"] for o in one.values()} == {o["source"] for o in other.values()}
    by_name = [[key[name]["source"] for name in sorted(key)] for key in (one, other)]
    assert by_name[0] != by_name[1]


def test_choose_balances_truths_and_takes_other_patients_first():
    image = np.zeros((2, 2), np.uint8)
    sick = [StudyImage(image, "real", f"s{i}", "", True, f"p{i}") for i in range(20)]
    well = [StudyImage(image, "real", f"w{i}", "", False, f"q{i % 3}") for i in range(30)]
    chosen = choose(sick + well, 6, np.random.default_rng(0))
    assert Counter(one.abnormal for one in chosen) == {True: 3, False: 3}
    assert len({one.patient for one in chosen}) == 6
    assert (
        Counter(one.abnormal for one in choose(sick + well, 10, np.random.default_rng(0)))[True] == 7
    )  # 3 patients are well
    assert len(choose(sick + well, 50, np.random.default_rng(0))) == 50
    assert [o.source for o in choose(sick, 6, np.random.default_rng(0))] != [o.source for o in sick[:6]]


def test_a_folder_with_a_table_and_other_sizes(tmp_path: Path):
    """Real images of a plain folder: captions, patients and labels from metadata.csv; brought to the
    generated size and gray.
    """
    real = tmp_path / "real"
    real.mkdir()
    lines = ["image,report,patient_id,finding"]
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        (real / "sub").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(real / "sub" / f"{index}é.png")
        name = [f"sub/{index}é.png", f".\\sub\\{index}é.png", f"./sub//{index}e\u0301.png"][index % 3]
        lines.append(f"{name},report {index % 2},p{index},{'Mass' if index % 2 else 'No Finding'}")
    (real / "metadata.csv").write_text("\n".join(lines) + "\n")
    made = tmp_path / "made"
    generated_images(made, 4)
    plan = json.loads((made / "generated.json").read_text())
    for index, entry in enumerate(plan["images"]):
        entry["prompt"] = ["report 0", "report 1", "another", "report 1"][index]
    (made / "generated.json").write_text(json.dumps(plan))
    new_study(str(real), str(made), str(tmp_path / "study"), num_images=8, seed=1)
    key = key_of(tmp_path / "study")
    found = {o["source"]: o["abnormal"] for o in key.values() if o["group"] == "generated"}
    assert found == {"00000.png": False, "00001.png": True, "00002.png": None, "00003.png": True}
    assert Counter(o["abnormal"] for o in key.values() if o["group"] == "real") == {True: 2, False: 2}
    for name in key:
        with Image.open(tmp_path / "study" / "images" / f"{name}.png") as image:
            assert image.mode == "L" and image.size == (SIZE, SIZE)


def test_bad_input_is_one_clear_line_and_exit_2(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shards, made = study.parent / "shards", study.parent / "made"
    assert_refused(medsd("reader-study", "serve", tmp_path), "study.json", "reader-study new")
    with pytest.raises(InputError, match="cannot listen"):
        serve_study(str(study), "127.0.0.1", 99999)
    monkeypatch.setenv("MEDSD_READER_TOKEN", "short")
    with pytest.raises(InputError, match="choose 16 or more"):
        serve_study(str(study), "0.0.0.0", 0)
    with pytest.raises(InputError, match="not an empty folder"):
        new_study(str(shards), str(made), str(study))
    with pytest.raises(InputError, match="only 12 images of each kind"):
        new_study(str(shards), str(made), str(tmp_path / "out"), num_images=100)
    for given, words in ((1, "2 or more"), (0, "2 or more")):
        with pytest.raises(InputError, match=words):
            new_study(str(shards), str(made), str(tmp_path / "out"), num_images=given)
    with pytest.raises(InputError, match="a folder of the machine"):
        new_study(str(shards), str(made), "s3://bucket/study")
    assert not (tmp_path / "out").exists()


# --- nothing tells the groups apart


def test_files_are_alike_in_all_but_their_pixels(study: Path):
    files = [study / "images" / f"{name}.png" for name in key_of(study)]
    data = [file.read_bytes() for file in files]
    assert len({len(one) for one in data}) == 1
    assert len({file.stat().st_mtime_ns for file in files}) == 1
    assert len({str(chunks(one)) for one in data}) == 1
    assert {kind for kind, _ in chunks(data[0])} == {b"IHDR", b"IDAT", b"IEND"}
    for one in data:
        with Image.open(io.BytesIO(one)) as image:
            assert (image.mode, image.size, image.info) == ("L", (SIZE, SIZE), {})
    # It is what storing does: compressed, the blurred images would be the smaller ones.
    small = {name: len(_compressed(one)) for name, one in zip(key_of(study), data, strict=True)}
    assert max(s for n, s in small.items() if key_of(study)[n]["group"] == "generated") < min(
        s for n, s in small.items() if key_of(study)[n]["group"] == "real"
    )


def _compressed(png: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@pytest.mark.parametrize(("height", "width", "channels"), [(64, 64, 1), (512, 384, 1), (256, 256, 3)])
def test_any_pixels_give_files_of_one_length(height: int, width: int, channels: int):
    shape = (height, width, 3) if channels == 3 else (height, width)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert (
        len(
            {
                str(chunks(uncompressed_png(pixels)))
                for pixels in (noise, np.zeros_like(noise), np.sort(noise, axis=0))
            }
        )
        == 1
    )


def test_responses_carry_no_hint(study: Path):
    page = client(study)
    key = key_of(study)
    answers = [page.get(f"/images/{name}.png") for name in key]
    assert all(answer.status_code == 200 for answer in answers)
    headers = [{n: v for n, v in answer.headers.items() if n != "date"} for answer in answers]
    assert all(one == headers[0] for one in headers)
    assert not {"etag", "last-modified", "content-disposition", "content-encoding"} & set(headers[0])
    session = page.post("/api/session", json={"reader": "A"})
    assert all(set(one) == {"image", "rating"} and one["rating"] is None for one in session.json()["images"])
    assert {one["image"] for one in session.json()["images"]} == set(key)
    public = (
        (study / "study.json").read_text()
        + session.text
        + "".join(page.get(p).text for p in ("/", "/reader.js"))
    )
    for one in key.values():
        for secret in (one["source"], one["text"]):
            assert secret not in public
    assert set(json.loads((study / "study.json").read_text())) == {
        "format",
        "seed",
        "width",
        "height",
        "images",
    }


def test_neither_names_nor_orders_sort_the_groups(tmp_path: Path):
    """Over 200 images: rank tests of the groups along names, each reader's order, and the image's place in
    study.json.
    """
    from scipy.stats import mannwhitneyu

    folder = make_study(tmp_path, count=100, size=16)
    key, study = key_of(folder), open_study(folder)
    assert list(study.images) == sorted(study.images) and all(
        re.fullmatch("[0-9a-f]{16}", name) for name in study.images
    )
    for images in (study.images, *(order(study, reader) for reader in ("a", "b", "c"))):
        places = {
            group: [i for i, name in enumerate(images) if key[name]["group"] == group]
            for group in ("real", "generated")
        }
        assert mannwhitneyu(places["real"], places["generated"]).pvalue > 1e-4


def test_the_page_serves_nothing_but_the_study_and_needs_no_key(study: Path, tmp_path: Path):
    kept = (study / KEY).rename(tmp_path / KEY)
    try:
        page = client(study)
        assert page.post("/api/session", json={"reader": "A"}).status_code == 200
    finally:
        kept.rename(study / KEY)
    name = next(iter(key_of(study)))
    for path in (
        "/key.json", "/study.json", "/answers.sqlite", "/images/", f"/images/{name}", "/images/..%2Fkey.png",
        "/openapi.json",
        "/report/report.json", "/images/../key.json", "/%2e%2e/key.json", "/images/0000000000000000.png",
        "/docs",
    ):  # fmt: skip
        assert page.get(path).status_code == 404, path


# --- rating


def test_an_order_of_ones_own_that_stays(study: Path):
    opened = open_study(study)
    one, other = order(opened, "a"), order(opened, "b")
    assert one == order(open_study(study), "a") and one != other and sorted(one) == sorted(other)
    assert order(replace(opened, seed=1), "a") != one


def test_spellings_of_a_name_are_one_reader():
    assert reader_name("  Dr  Ångström ") == reader_name("DR A\u030angstro\u0308m") == "dr ångström"
    for wrong in ("", "   ", "x" * 65, "a\x00b", "a\u202eb"):
        with pytest.raises(ValueError, match="a name has"):
            reader_name(wrong)


def test_an_answer_is_kept_and_comes_back_after_a_restart(study: Path):
    page = client(study)
    first = page.post("/api/session", json={"reader": "Restarted"}).json()["images"][0]["image"]
    rated = {"reader": "Restarted", "image": first, "rating": RATING}
    assert page.put("/api/answer", json=rated).status_code == 204
    again = client(study).post("/api/session", json={"reader": "restarted"}).json()["images"]
    assert again[0] == {"image": first, "rating": RATING} and again[1]["rating"] is None
    changed = rated | {"rating": RATING | {"abnormal": False}}
    assert page.put("/api/answer", json=changed).status_code == 204
    (kept,) = Answers(study / ANSWERS).read("restarted")
    assert kept.abnormal is False and kept.region is None  # no place without an abnormality


def test_answers_that_are_no_json_numbers_are_refused(study: Path):
    page = client(study)
    name = next(iter(key_of(study)))
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000):
        asked = {"reader": "nan", "image": name, "rating": RATING | {"seconds": "here"}}
        body = json.dumps(asked).replace('"here"', number)
        answer = page.put("/api/answer", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), number
    answer = page.put("/api/answer", content="[" * 50_000, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert Answers(study / ANSWERS).read("nan") == []


@pytest.mark.parametrize(
    "change",
    [
        {"realism": 6},
        {"realism": 0},
        {"judged": "fake"},
        {"region": [0, 0, 2, 1]},
        {"seconds": -1},
        {"extra": 1},
    ],
)
def test_answers_out_of_range_are_refused(study: Path, change: dict):
    page = client(study)
    name = next(iter(key_of(study)))
    wrong = {"reader": "wrong", "image": name, "rating": RATING | change}
    assert page.put("/api/answer", json=wrong).status_code == 422
    assert (
        page.put("/api/answer", json={"reader": "wrong", "image": "0" * 16, "rating": RATING}).status_code
        == 404
    )
    assert page.post("/api/session", json={"reader": ""}).status_code == 422
    assert Answers(study / ANSWERS).read("wrong") == []


# --- the report


def rate(folder: Path, reader: str, judge, see, realism) -> None:
    """Answers to every image, from functions of (its name, its entry in the key)."""
    answers = Answers(folder / ANSWERS)
    for name, one in key_of(folder).items():
        answers.write(Answer(reader, name, realism(one), see(one), None, judge(one), 1.0))


def test_the_report_of_readers_whose_answers_are_known(tmp_path: Path):
    folder = make_study(tmp_path)
    with pytest.raises(InputError, match="no answers yet"):
        report_study(str(folder))
    truth = lambda one: one["group"]
    sees = lambda one: one["abnormal"]
    scale = lambda one: 5 if one["group"] == "real" else 2
    rate(folder, "oracle", truth, sees, scale)
    alone = report_study(str(folder))
    assert alone["all"]["turing_accuracy"] == 1.0
    assert alone["all"]["turing_accuracy_interval"] == pytest.approx(
        [0.8620, 1.0], abs=1e-4
    )  # Wilson, 24 of 24
    assert alone["all"]["realism_real"] == 5.0 and alone["all"]["realism_generated_interval"] is None
    same = "no interval, all 12 values are the same, which bounds nothing"
    assert same in summary(alone) and same in (folder / "report" / "report.html").read_text()
    assert (
        alone["agreement"]["judged"]["kappa"] is None
        and "one reader" in alone["agreement"]["judged"]["kappa_reason"]
    )
    rate(folder, "=credulous", lambda _: "real", lambda _: True, lambda _: 4)
    two = report_study(str(folder))
    by_reader = {one["reader"]: one for one in two["readers"]}
    naive = by_reader["=credulous"]
    assert (
        naive["turing_accuracy"],
        naive["generated_taken_for_real"],
        naive["real_taken_for_generated"],
    ) == (0.5, 1.0, 0.0)
    assert (naive["sensitivity_generated"], naive["specificity_generated"]) == (1.0, 0.0)
    assert by_reader["oracle"]["specificity_real"] == 1.0
    assert two["all"]["turing_accuracy"] == 0.75 and two["all"]["realism_real"] == 4.5
    few = "too few: 24 images, where 30 are needed"  # so that intervals by drawing images are withheld
    assert two["all"]["turing_accuracy_interval"] is None
    assert two["all"]["turing_accuracy_interval_reason"] == few
    assert two["agreement"]["judged"]["kappa_interval_reason"] == few
    assert f"no interval, {few}" in summary(two)
    assert f"no interval, {few}" in (folder / "report" / "report.html").read_text()
    assert two["agreement"]["judged"]["method"] == "Cohen" and two["agreement"]["judged"][
        "kappa"
    ] == pytest.approx(0.0)
    rate(folder, "twin", truth, sees, scale)
    three = report_study(str(folder))
    assert (
        three["agreement"]["realism"]["method"] == "Fleiss" and 0 < three["agreement"]["judged"]["kappa"] < 1
    )
    assert three == json.loads((folder / "report" / "report.json").read_text())
    rows = list(csv.DictReader((folder / "report" / "answers.csv").open(newline="")))
    assert len(rows) == 72 and {row["reader"] for row in rows} == {
        "oracle",
        "twin",
        "'=credulous",
    }  # no formula
    assert all((row["judged"] == row["group"]) == (row["right"] == "1") for row in rows)


def test_the_report_says_what_is_not_known_and_escapes_names(tmp_path: Path):
    folder = make_study(tmp_path, num_images=8)
    key = json.loads((folder / KEY).read_text())
    for one in key["images"].values():
        one["abnormal"] = None
    (folder / KEY).write_text(json.dumps(key))
    name = next(iter(key["images"]))
    Answers(folder / ANSWERS).write(
        Answer("<img src=x onerror=alert(1)>", name, 3, True, (0.5,) * 4, "real", 1.0)
    )
    found = report_study(str(folder))
    assert found["all"]["sensitivity_real"] is None and found["all"]["sensitivity_real_reason"]
    assert any("has rated 1 of 8 images" in line for line in found["cautions"])
    page = (folder / "report" / "report.html").read_text()
    assert "<img" not in page and "&lt;img src=x" in page
    (folder / KEY).unlink()
    with pytest.raises(InputError, match="key is not there"):
        report_study(str(folder))


def test_a_study_that_names_an_image_twice_is_refused(tmp_path: Path):
    """Readers would be asked twice, and the second answer would count."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images/0123456789abcdef.png").write_bytes(b"")
    study = {"format": "medsd-reader-study/1", "seed": 0, "width": 8, "height": 8}
    twice = {"images": ["0123456789abcdef"] * 2}
    (tmp_path / "study.json").write_text(json.dumps(study | twice))
    with pytest.raises(InputError, match="an image is named twice"):
        open_study(tmp_path)
