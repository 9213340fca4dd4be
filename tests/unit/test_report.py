"""The report itself, from made-up figures: reasons, cautions, escaping, one file."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from medsd_ray.evaluation.estimates import Estimate, Missing, put
from medsd_ray.evaluation.figures import reconstruction
from medsd_ray.evaluation.figures.accuracy import classifier_section, insertion_section
from medsd_ray.evaluation.figures.clip_score import clip_section
from medsd_ray.evaluation.figures.counts import count_section
from medsd_ray.evaluation.figures.distances import ORDER, distance_sections
from medsd_ray.evaluation.figures.diversity import diversity_section
from medsd_ray.evaluation.figures.memorisation import memorisation_section
from medsd_ray.evaluation.figures.sets import Sets
from medsd_ray.evaluation.figures.training_record import train_section
from medsd_ray.evaluation.inputs import ImageSet
from medsd_ray.evaluation.networks.extractors import Extractor
from medsd_ray.evaluation.report import format, plots
from medsd_ray.evaluation.report import page as report
from medsd_ray.evaluation.versions import versions
from medsd_ray.runs.record import RunRecord

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


def images(count: int, caption: str, seed: int = 0) -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 1), dtype=np.uint8)
    return ImageSet(
        pixels,
        [f"{caption}-{i}" for i in range(count)],
        [caption] * count,
        [str(i) for i in range(count)],
        [None] * count,
    )


def bare_report(sets: Sets, **changes: Any) -> dict:
    """A report of which nothing could be computed."""
    no = Missing("no classifier here")
    found = {
        "title": "A title", "created": "2030-01-02T03:04:05+00:00", "command": "medsd evaluate",
        "model": None,
        "model_fingerprint": None, "generation": {}, "reference": "some images", "notes": [], "seconds": 1.0,
        "extra": {},
        "counts": count_section(sets), "classifier": classifier_section(no, sets, "finding", 0),
        "ms_ssim": diversity_section(sets, 0), "clip": clip_section(None, sets),
        "train": train_section(RunRecord()),
        "vae": reconstruction.vae_section(Missing("no model"), Missing("no weights"), sets.held_out.pixels),
        "run": {"output": None, "spec": "", "manifest": {}, "result": {}}, "versions": versions(),
    }  # fmt: skip
    found |= distance_sections({name: no for name in ORDER}, sets, 0, lambda _: None)
    found["insertion"] = insertion_section(found["classifier"])
    found["memorisation"] = memorisation_section({"classifier": no}, sets)[0]
    found |= changes
    return found | {"cautions": report.cautions(found)}


def page(found: dict, sets: Sets, **view: Any) -> str:
    empty = {
        "curve": None,
        "fid_plot": None,
        "kid_plot": None,
        "checks": {},
        "extractors": list(ORDER),
    }
    rows = plots.picture_rows(sets.held_out, sets.generated, sets.base)
    return report.render(found, empty | {"rows": rows} | view).decode()


@pytest.fixture
def sets() -> Sets:
    return Sets(None, None, images(6, "real"), images(6, EVIL, 1), None, "some images")


def test_a_figure_that_was_not_computed_is_null_with_its_reason(sets: Sets):
    found = bare_report(sets)
    figures = {
        "fid": ("generated", "real", "base", "extractor", "generated_below_base"),
        "kid": ("generated", "real", "base"),
        "prdc": ("generated",),
        "ms_ssim": ("base",),
        "classifier": ("real_heldout_accuracy", "generated_accuracy", "base_accuracy"),
        "insertion": ("accuracy",),
        "clip": ("generated",),
        "vae": ("psnr", "ssim", "lpips"),
        "train": ("images_per_second", "optimizer_bytes_per_worker"),
        "memorisation": ("passed",),
        "counts": ("real_train", "base"),
    }
    for section, names in figures.items():
        for name in names:
            assert found[section][name] is None, f"{section}.{name}"
            assert found[section][f"{name}_reason"], f"{section}.{name} has no reason"
    assert all(
        value is not None for name, value in found["versions"].items() if name in ("python", "torch", "medsd")
    )


def test_put_writes_intervals_and_refuses_what_is_not_a_number():
    section: dict[str, Any] = {}
    put(section, "a", Estimate(1.0, 0.5, 2.0))
    put(section, "b", float("nan"))
    put(section, "c", 3)
    assert section == {
        "a": 1.0, "a_interval": [0.5, 2.0], "b": None, "b_reason": "the computation gave no finite number",
        "c": 3,
    }  # fmt: skip
    with pytest.raises(ValueError, match="JSON compliant"):
        format.dumps({"x": float("inf")})


def flat(pixels: np.ndarray) -> np.ndarray:
    """Features of images: their mean brightness and that of their corner."""
    return np.stack([pixels.mean((1, 2, 3)), pixels[:, :8, :8].mean((1, 2, 3))], axis=1)


@pytest.mark.parametrize(
    ("held_out", "made", "patients", "withheld"),
    [(30, 30, 10, False), (29, 30, 29, True), (30, 29, 10, True), (36, 30, 9, True)],
)
def test_few_images_or_patients_give_distances_without_intervals(
    held_out: int, made: int, patients: int, withheld: bool
):
    real = images(held_out, "real")
    real = replace(real, groups=[str(i % patients) for i in range(held_out)])
    sets = Sets(None, None, real, images(made, "made", 1), images(40, "base", 2), "some images")
    no = Missing("not given")
    extractors = {"inception": no, "xrv": no, "classifier": Extractor("classifier", 2, "two means", flat)}
    found = bare_report(sets, **distance_sections(extractors, sets, 0, lambda _: None))
    for name in ("fid", "kid"):
        for one in ("generated", "base"):
            assert found[name][one] is not None
            assert (found[name][f"{one}_interval"] is None) is withheld
        assert (found[name]["generated_below_base"] is None) is withheld
    assert (found["kid"]["generated_std"] is None) is withheld
    few = f"too few: {min(held_out, made)} images of {patients} patients, where 30 of 10 patients are needed"
    text = page(found, sets, fid_plot=plots.interval_plot(found["fid"], "FID"))
    for said in (" ".join(found["cautions"]), report.summary(found), text):
        assert (few in said) is withheld
    assert ("Intervals (95%) come from" in text) is not withheld


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_prompts_and_all_else_from_outside_are_escaped(sets: Sets):
    found = bare_report(
        sets, title=EVIL, command=EVIL, model=EVIL, generation={EVIL: EVIL}, notes=[EVIL], reference=EVIL,
        run={"output": EVIL, "spec": EVIL, "manifest": {"a": EVIL}, "result": {}},
        extra={EVIL: [{EVIL: EVIL}], "b": {EVIL: EVIL}},
    )  # fmt: skip
    pair = {"generated": "data:,", "real": "data:,", "file": EVIL, "key": EVIL, "ratio": 0.1, "flagged": True}
    found["memorisation"] = {
        "passed": False,
        "flagged": [{"file": EVIL}],
        "spaces": {"pixels": {"flagged": 1}},
    }
    text = page(found, sets, checks={"pixels": {"plot": "data:,", "pairs": [pair]}})
    tags = Tags()
    tags.feed(text)
    assert "script" not in {tag for tag, _ in tags.found}
    assert not [attrs for _, attrs in tags.found if any(name.startswith("on") for name in attrs)]
    assert {attrs["src"][:5] for tag, attrs in tags.found if tag == "img" and attrs["src"]} == {"data:"}
    assert "&lt;script&gt;" in text


def test_the_page_needs_no_network(sets: Sets):
    text = page(bare_report(sets), sets)
    without_data = re.sub(r"data:[^\"')]+", "", text)
    assert "http://" not in without_data and "https://" not in without_data
    assert "<link" not in text and "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text
    assert "Research use only" in text
    assert "not computed: no feature extractor" in text or "no classifier here" in text


def test_cautions_say_what_makes_figures_unreliable(sets: Sets):
    found = bare_report(sets)
    found["fid"]["by_extractor"]["inception"] = {
        "generated": 1.0,
        "samples": 100,
        "reference_samples": 90,
        "dimensions": 2048,
    }
    found["classifier"] |= {"real_heldout_accuracy": 0.6, "real_heldout_auroc_interval": [0.4, 0.7]}
    said = " ".join(report.cautions(found | {"notes": ["Real images of 256x256 were resized."]}))
    assert "90 images are fewer than its 2048 features" in said
    assert "no better than chance" in said
    assert "2 distinct captions" in " ".join(
        report.cautions(found | {"counts": found["counts"] | {"captions": 2}})
    )
    assert "256x256" in said


def test_extra_sections_become_tables(sets: Sets):
    extra = {
        "seconds": {"prepare": 1.5, "adapt the U-Net": 300.25},
        "zero": [{"stage": 2, "bytes": 1234567}],
        "one": 3,
    }
    text = page(bare_report(sets, extra=extra), sets)
    assert "Adapt the U-Net" in text and "300" in text and "1 234 567" in text


def test_the_curve_shows_training_and_validation_and_is_absent_without_a_run():
    metrics = [{"step": i, "loss": 1 / i} for i in range(1, 60)] + [{"step": 30, "validation_loss": 0.2}]
    uri = plots.loss_curve(metrics)
    assert uri is not None
    assert uri.startswith("data:image/svg+xml;base64,")
    assert plots.loss_curve([]) is None


def test_figures_of_validation_are_drawn_where_there_are_some():
    metrics = [{"step": 5, "loss": 0.5}, {"step": 10, "validation_loss": 0.4, "validation_dice": 0.8}]
    uri = plots.figures_curve(metrics)
    assert uri and uri.startswith("data:image/svg+xml;base64,")
    assert b"Dice" in base64.b64decode(uri.partition(",")[2])
    assert plots.figures_curve(metrics[:1]) is None


def test_numbers_for_people():
    shown = [format.number(v) for v in (None, True, 1234567, 0.12345, 12.345, 1234.5, 0.00001234, 0.0, "x")]
    assert shown == ["–", "yes", "1 234 567", "0.123", "12.3", "1 234", "1.23e-05", "0.000", "x"]
    assert format.percent(0.987) == "98.7%"


def test_the_json_is_strict_and_readable(sets: Sets):
    found = bare_report(sets)
    assert json.loads(format.dumps(found)) == json.loads(json.dumps(found))
    assert "memorisation check: not done" in report.summary(found)
