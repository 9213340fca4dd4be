"""A task run from training to its report: phantoms of 32 px, tiny networks."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import assert_refused, medsd_here
from dicoms import dicom, save
from highdicom.seg import segread
from monai.metrics import compute_dice
from PIL import Image, ImageOps
from plain_workers import Pool
from playwright.sync_api import Browser
from pydicom.uid import ComputedRadiographyImageStorage, generate_uid
from tiny_tasks import TASKS

from medsd_ray.data.prepare import prepare
from medsd_ray.data.shards import iter_samples, read_index
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.evaluation.evaluate_task import evaluate_task
from medsd_ray.evaluation.task_options import TaskEvaluation
from medsd_ray.models.inference import Inference
from medsd_ray.models.networks.load import load_predictor
from medsd_ray.models.networks.task_run import need_task_run
from medsd_ray.runs.names import TRIAL, trial_file
from medsd_ray.spec import plan
from medsd_ray.spec.load import parse_run, parse_study
from medsd_ray.storage import FolderStorage
from medsd_ray.tuning import markdown
from medsd_ray.tuning.trial import TrialRunner

SIZE = 32


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, one_worker: Pool) -> Path:
    """Shards of two sites, and a classifier and a segmenter that learnt one of them."""
    root = tmp_path_factory.mktemp("task-evaluation")
    request = SourceRequest("160", "phantom", size=SIZE, sites=("A", "C"))
    prepare(request, str(root / "shards"), splits="0.5,0,0.5")
    for task, settings in TASKS.items():
        one_worker.train(parse_run(values(root, task, settings)))
    return root


def values(root: Path, task: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": task,
        "data": {"sources": [{"shards": str(root / "shards"), "domain": "A"}]},
        task: settings,
        "training": {"max_steps": 30, "global_batch_size": 16, "learning_rate": 3e-3, "log_every": 5},
        "checkpoint": {"every_steps": 30},
        "resources": {"num_workers": 1},
        "output": str(root / task),
    }


@pytest.fixture(scope="module")
def reports(root: Path) -> dict[str, dict]:
    return {task: evaluated(root, task) for task in TASKS}


def evaluated(root: Path, task: str, **changes: Any) -> dict:
    options = TaskEvaluation(str(root / task), str(root / "shards"), use_gpu=False, **changes)
    return evaluate_task(options, need_task_run(options.run), lambda _: None)


def judges(root: Path) -> Any:
    return list(iter_samples(str(root / "shards"), "test"))


def test_a_classifier_is_judged_by_what_it_says_of_each_image(root: Path, reports: dict[str, dict]):
    report, samples = reports["classifier"], judges(root)
    predictor = load_predictor(need_task_run(str(root / "classifier")), Inference())
    shares = predictor.predict(np.stack([sample.image for sample in samples]))
    assert shares.shape == (len(samples), 3) and np.allclose(shares.sum(1), 1, atol=1e-5)
    right = [
        report["classes"][k] == s.labels["extent"] for k, s in zip(shares.argmax(1), samples, strict=True)
    ]
    assert report["figures"]["accuracy"] == np.mean(right)
    assert np.sum(report["confusion"]) == len(samples) == report["figures"]["images"]
    by_domain = {row["domain"]: row for row in report["by_domain"]}
    of_c = [one for one, sample in zip(right, samples, strict=True) if sample.domain == "C"]
    assert by_domain["C"]["accuracy"] == np.mean(of_c)
    assert (by_domain["A"]["learnt"], by_domain["C"]["learnt"]) == (True, False)
    assert "train split of these shards" in report["cautions"][0]


def test_a_segmenter_is_judged_by_its_masks(root: Path, reports: dict[str, dict]):
    report, samples = reports["segmenter"], judges(root)
    predictor = load_predictor(need_task_run(str(root / "segmenter")), Inference())
    shares = torch.from_numpy(predictor.predict(np.stack([sample.image for sample in samples])))
    assert shares.shape == (len(samples), 2, SIZE, SIZE)
    true = torch.from_numpy(np.stack([sample.masks["effusion"] > 0 for sample in samples]))[:, None]
    dice = compute_dice(shares.argmax(1, keepdim=True), true)
    assert report["figures"]["dice"] == pytest.approx(float(dice.nanmean()), abs=1e-6)
    (row,) = report["by_class"]
    assert row["images"] == int(true.flatten(1).any(1).sum()) < len(samples)
    failures = [one["dice"] for one in report["failures"]]
    assert failures == sorted(failures) and failures[0] == pytest.approx(float(dice[~dice.isnan()].min()))


@pytest.mark.parametrize("task", TASKS)
def test_a_report_has_its_pictures_and_names_no_patient(root: Path, reports: dict[str, dict], task: str):
    folder = root / task / "report"
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    failures = {f"failures/{number:02d}.png" for number in range(len(reports[task]["failures"]))}
    expected = {"report.json", "report.html", "COMPLETE", "reliability.png"} | failures
    assert written == expected | ({"roc.png", "confusion.png"} if task == "classifier" else set())
    for name in written:
        if name.endswith(".png"):
            with Image.open(folder / name) as picture:
                assert picture.width >= 300 and not {"Software"} & picture.info.keys()
    page = (folder / "report.html").read_text()
    assert json.loads((folder / "report.json").read_text()) == reports[task]
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", page)
    assert not any(f'"{sample.patient}"' in page for sample in judges(root) if sample.patient != sample.key)


def test_a_second_call_computes_nothing_and_another_seed_does(root: Path, reports: dict[str, dict]):
    before = reports["segmenter"]
    assert evaluated(root, "segmenter") == before
    other = evaluated(root, "segmenter", seed=1, out=str(root / "other"))
    assert other["figures"]["dice"] == before["figures"]["dice"]
    assert other["figures"]["dice_interval"] != before["figures"]["dice_interval"]


@pytest.fixture(scope="module")
def narrow(browser: Browser) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark")
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("task", TASKS)
def test_the_page_fits_a_phone(root: Path, reports: dict[str, dict], narrow: Any, task: str):
    narrow.goto((root / task / "report/report.html").as_uri())
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 360
    assert narrow.evaluate("[...document.images].every(image => image.naturalWidth > 0)")


def words(root: Path, *more: object) -> list[object]:
    return ["evaluate", root / "classifier", "--real", root / "shards", *more]


def test_what_cannot_be_judged_is_refused_in_one_line(root: Path, tmp_path: Path):
    assert_refused(medsd_here(*words(root, "--clip", "x")), "--clip is of the evaluation of generated images")
    assert_refused(
        medsd_here(*words(root, "--split", "validation")), "no validation split here, only train, test"
    )
    assert_refused(medsd_here(*words(root, "--precision", "fp8")), "precision is 'fp8'")
    absent = medsd_here("evaluate", tmp_path, "--real", root / "shards")
    assert_refused(absent, "no task run; give the output of a run that trained a classifier or a segmenter")
    images = ["evaluate", "--real", root / "shards", "--generated", tmp_path, "--out", tmp_path / "out"]
    assert_refused(medsd_here(*images, "--split", "test"), "--split is of the evaluation of a task run")
    assert_refused(medsd_here("evaluate", "--real", root / "shards", "--out", "x"), "give --generated")
    prepare(SourceRequest("8", "phantom", size=64), str(tmp_path / "large"), splits="0.5,0,0.5")
    large = medsd_here("evaluate", root / "classifier", "--real", tmp_path / "large")
    assert_refused(large, "images of 64 px, but the classifier was trained on 32 px")
    assert not (tmp_path / "out").exists()


def test_a_run_is_not_judged_by_what_it_learnt_from(root: Path, one_worker: Pool):
    settings = values(root, "classifier", TASKS["classifier"])
    settings |= {"data": {"train": str(root / "shards/test")}, "output": str(root / "leaky")}
    one_worker.train(parse_run(settings))
    assert_refused(
        medsd_here("evaluate", root / "leaky", "--real", root / "shards"),
        "learnt from this very split (test)",
    )


def test_labels_that_are_no_class_are_left_out_and_counted(root: Path, one_worker: Pool):
    settings = values(root, "classifier", TASKS["classifier"] | {"classes": ["none", "large"]})
    one_worker.train(parse_run(settings | {"output": str(root / "two")}))
    report = evaluated(root, "two")
    small = sum(sample.labels["extent"] == "small" for sample in judges(root))
    assert report["left_out"] == {"are 'small'": small}
    assert report["figures"]["images"] == len(judges(root)) - small
    assert f"{small} images are left out, as they are 'small'." in report["cautions"]


def predict(root: Path, task: str, images: Path, out: Path, *more: object) -> Any:
    return medsd_here("predict", root / task, images, "--out", out, "--no-use-gpu", *more)


def predicted(root: Path, task: str, images: Path, out: Path) -> list[dict[str, str]]:
    done = predict(root, task, images, out)
    assert done.returncode == 0, done.stderr
    with (out / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def test_predictions_of_shards_are_those_that_were_judged(root: Path, tmp_path: Path):
    rows = predicted(root, "classifier", root / "shards/test", tmp_path / "out")
    samples = {sample.key: sample for sample in judges(root)}
    right = [samples[row["image"]].labels["extent"] == row["predicted"] for row in rows]
    report = json.loads((root / "classifier/report/report.json").read_text())
    assert len(rows) == len(samples) and np.mean(right) == report["figures"]["accuracy"]
    again = medsd_here("predict", root / "classifier", root / "shards/test", "--out", tmp_path / "out")
    assert "complete, nothing to do" in again.stdout


def test_masks_have_their_images_size_and_orientation(root: Path, tmp_path: Path):
    """A phantom as it is, with borders that the fit crops, turned by EXIF, and as DICOM."""
    images = tmp_path / "images"
    (images / "a").mkdir(parents=True)
    sample = max(judges(root), key=lambda one: int((one.masks["effusion"] > 0).sum()))
    image = Image.fromarray(sample.image)
    image.save(images / "same.png")
    wide = Image.new("L", (52, 32))
    wide.paste(image, (10, 0))
    wide.save(images / "a/wide.tif")
    exif = Image.Exif()
    exif[274] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(images / "turned.png", exif=exif)
    save(dicom(sample.image), images / "x.dcm")
    rows = {row["image"]: row for row in predicted(root, "segmenter", images, tmp_path / "out")}
    assert rows.keys() == {"same.png", "a/wide.tif", "turned.png", "x.dcm"}
    assert all(int(row["height"]) == SIZE for row in rows.values())
    masks = {name: Image.open(tmp_path / f"out/masks/{name}.png") for name in rows}
    same = np.asarray(masks["same.png"])
    predictor = load_predictor(need_task_run(str(root / "segmenter")), Inference())
    assert (same == predictor.predict(sample.image[None]).argmax(1)[0] * 255).all() and same.max() == 255
    assert float(rows["same.png"]["share_effusion"]) == pytest.approx((same > 0).mean(), abs=1e-6)
    on_wide = np.asarray(masks["a/wide.tif"])
    assert (on_wide[:, 10:42] == same).all() and not on_wide[:, :10].any() and not on_wide[:, 42:].any()
    assert float(rows["a/wide.tif"]["share_seen"]) == pytest.approx(32 / 52, abs=1e-6)
    assert masks["turned.png"].getexif()[274] == 6
    assert (np.asarray(ImageOps.exif_transpose(masks["turned.png"])) == same).all()


def test_what_cannot_be_read_is_named_and_the_rest_predicted(root: Path, tmp_path: Path):
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(judges(root)[0].image).save(images / "good.png")
    (images / "bad.png").write_bytes(b"no image")
    out = tmp_path / "out"
    assert_refused(medsd_here("predict", root / "classifier", images, "--out", out), "bad.png: not an image")
    assert (out / "COMPLETE").exists() and "good.png" in (out / "predictions.csv").read_text()


def test_predictions_overwrite_nothing(root: Path, tmp_path: Path):
    images, out = root / "shards/test", tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    run = root / "classifier"
    assert_refused(medsd_here("predict", run, images, "--out", out), "what is there is something else")
    assert_refused(medsd_here("predict", run, tmp_path, "--out", out), "no images here")
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    assert_refused(medsd_here("predict", run, tmp_path, "--out", out), "below the images")
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_masks_of_dicom_images_are_dicom_objects(root: Path, tmp_path: Path):
    sample = max(judges(root), key=lambda one: int((one.masks["effusion"] > 0).sum()))
    study = {"SOPClassUID": ComputedRadiographyImageStorage, "SeriesInstanceUID": generate_uid()}
    wide = np.pad(sample.image, ((0, 0), (10, 10)))
    source = dicom(wide, StudyInstanceUID=generate_uid(), **study)
    images, out = tmp_path / "images", tmp_path / "out"
    save(source, images / "a/x.dcm")
    predicted(root, "segmenter", images, tmp_path / "png")
    done = predict(root, "segmenter", images, out, "--mask-format", "dicom")
    assert done.returncode == 0, done.stderr
    found = segread(out / "masks/a/x.dcm.seg.dcm")
    mask = found.get_pixels_by_source_instance([source.SOPInstanceUID], combine_segments=True)[0]
    png = np.asarray(Image.open(tmp_path / "png/masks/a/x.dcm.png"))
    assert mask.any() and (mask == png // 255).all()
    again = predict(root, "segmenter", images, out)
    assert_refused(again, "differs in mask_format")
    classes = predict(root, "classifier", images, tmp_path / "none", "--mask-format", "dicom")
    assert_refused(classes, "is of a segmenter's masks")
    save(dicom(sample.image, **study), images / "nameless.dcm")
    part = predict(root, "segmenter", images, tmp_path / "part", "--mask-format", "dicom")
    assert_refused(part, "nameless.dcm: has no StudyInstanceUID")
    assert (tmp_path / "part/masks/a/x.dcm.seg.dcm").exists()
    Image.fromarray(sample.image).save(images / "b.png")
    mixed = predict(root, "segmenter", images, tmp_path / "none", "--mask-format", "dicom")
    assert_refused(mixed, "b.png is no DICOM file")
    assert not (tmp_path / "none").exists()


def test_a_trial_is_judged_on_the_split_that_its_study_names(one_worker: Pool, tmp_path: Path):
    prepare(SourceRequest("120", "phantom", size=SIZE), str(tmp_path / "shards"), splits="0.4,0.3,0.3")
    figures = {}
    for split in ("validation", "test"):
        study = parse_study(
            {
                "name": split,
                "output": str(tmp_path / split),
                "shards": str(tmp_path / "shards"),
                "metric": "accuracy",
                "evaluation": {"split": split},
                "run": {
                    "classifier": TASKS["classifier"],
                    "training": {"max_steps": 10, "global_batch_size": 8, "learning_rate": 3e-3},
                    "resources": {"num_workers": 1},
                },
                "space": {"classifier.loss": ["cross_entropy"]},
            }
        )
        params = {"classifier.loss": "cross_entropy"}
        run = plan.trial_run(study, params, 0, "0000")
        assert run
        if figures:  # the very same run, in another study
            shutil.copytree(tmp_path / "validation/trials/0000", tmp_path / "test/trials/0000")
            shutil.rmtree(tmp_path / "test/trials/0000/report")
        else:
            one_worker.train(run)
        FolderStorage(tmp_path / split).write_json(trial_file("0000", TRIAL), {"params": params, "seed": 0})
        figures[split] = TrialRunner(study, "0000", {}, [], True)._judge_task(run)
        report = json.loads((Path(run.output) / "report/report.json").read_text())
        index = read_index(str(tmp_path / "shards"), split)
        assert report["split"] == split and report["figures"]["images"] == index.samples
        assert f"images of the {split} split" in markdown.report(
            study, {"trials": [], "best": None, "importance": None, "importance_reason": None}
        )
    assert figures["validation"]["brier"] != figures["test"]["brier"]
