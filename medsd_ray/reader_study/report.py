"""`medsd reader-study report`: what the readers saw, against the key: report.json, report.html and
answers.csv.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from medsd_ray.addresses import path_of
from medsd_ray.documents import json_object
from medsd_ray.errors import InputError
from medsd_ray.evaluation.estimates import Estimate, Missing, Withheld, mean_t, put, wilson
from medsd_ray.evaluation.report.format import csv_bytes, dumps, interval_words, number, percent
from medsd_ray.evaluation.report.template import render_template
from medsd_ray.reader_study import statistics
from medsd_ray.reader_study.answers import Answer, Answers
from medsd_ray.reader_study.study import ANSWERS, FORMAT, KEY, REPORT, KeyFile, Study, open_study
from medsd_ray.schemas import first_fault
from medsd_ray.storage import open_storage
from medsd_ray.times import now

GROUPS = ("real", "generated")

# How many answers there are, whether they are ordered, and the number of the one given.
QUESTIONS: dict[str, tuple[int, bool, Callable[[Answer], int]]] = {
    "judged": (2, False, lambda a: GROUPS.index(a.judged)),
    "abnormal": (2, False, lambda a: int(a.abnormal)),
    "realism": (5, True, lambda a: a.realism - 1),
}


@dataclass(frozen=True)
class RatedImage:
    """An answer beside what the key says of its image."""

    answer: Answer
    group: str
    source: str
    text: str
    abnormal: bool | None

    @property
    def right(self) -> bool:
        return self.answer.judged == self.group


def report_study(folder: str) -> dict:
    """Writes report.json, report.html and answers.csv of the answers so far, and prints a summary.

    Args:
        folder: The study's folder.

    Returns:
        What report.json holds.

    Raises:
        InputError: There is no study, no key to it, or no answer yet.
    """
    study = open_study(path_of(folder))
    key = read_key(study)
    path = study.folder / ANSWERS
    answers = Answers(path).read() if path.is_file() else []
    rated = [RatedImage(a, **key["images"][a.image]) for a in answers if a.image in key["images"]]
    if not rated:
        raise InputError(
            f"{folder}: no answers yet; let a reader rate images with `medsd reader-study serve {folder}`"
        )
    found = measure(rated, key, study.seed)
    store = open_storage(study.folder / REPORT)
    store.write("report.json", dumps(found))
    store.write("report.html", render(found))
    store.write("answers.csv", table(rated))
    print(summary(found))
    print(f"{store.url}: report.html, report.json, answers.csv")
    return found


def read_key(study: Study) -> dict:
    """Raises InputError where the key is absent or another study's."""
    path = study.folder / KEY
    try:
        key = json_object(path.read_bytes())
        if fault := first_fault(KeyFile, key):
            raise ValueError(fault)
        if key["format"] != FORMAT or set(key["images"]) != set(study.images):
            raise InputError(f"{path}: the key of another study; bring back this one's")
    except FileNotFoundError as error:
        raise InputError(f"{path}: the key is not there; bring it back from where it was kept") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged; bring back a copy of it") from error
    return key


def measure(rated: list[RatedImage], key: dict, seed: int) -> dict[str, Any]:
    """Every figure of the report: of each reader, of all together, and how far they agree."""
    names = sorted({one.answer.reader for one in rated})
    by_reader = {name: [one for one in rated if one.answer.reader == name] for name in names}
    total = len(key["images"])
    found: dict[str, Any] = {
        "format": "medsd-reader-report/1",
        "created": now(),
        "real": key["real"],
        "generated": key["generated"],
        "reference": key["reference"],
        "label": key["label"],
        "normal": key["normal"],
        "images": {group: sum(o["group"] == group for o in key["images"].values()) for group in GROUPS},
        "readers": [{"reader": name, **figures(some, seed)} for name, some in by_reader.items()],
        "all": figures(rated, seed),
        "agreement": {question: _agreement(by_reader, question, seed) for question in QUESTIONS},
    }
    found["cautions"] = [
        f"{n} has rated {len(s)} of {total} images." for n, s in by_reader.items() if len(s) < total
    ]
    if len(names) > 1:
        found["cautions"].append(
            "Intervals over all readers draw images, with all answers to each; "
            "they say nothing of other readers than these."
        )
    return found


def figures(rated: list[RatedImage], seed: int) -> dict[str, Any]:
    """The figures of one reader's answers, or of several readers' together."""
    section: dict[str, Any] = {"answers": len(rated), "readers": len({one.answer.reader for one in rated})}
    section["median_seconds"] = float(np.median([one.answer.seconds for one in rated]))
    share = lambda name, some, holds, why: put(
        section, name, _share(some, holds, seed) if some else Missing(why)
    )
    share("turing_accuracy", rated, lambda o: o.right, "no answers")
    for group, other in (("generated", "real"), ("real", "generated")):
        some = [one for one in rated if one.group == group]
        share(f"{group}_taken_for_{other}", some, lambda o: not o.right, f"no {group} image is rated")
        put(section, f"realism_{group}", _mean(some, seed))
        ill, well = ([one for one in some if one.abnormal is truth] for truth in (True, False))
        unknown = f"no rated {group} image is known to be"
        share(f"sensitivity_{group}", ill, lambda o: o.answer.abnormal, f"{unknown} abnormal")
        share(f"specificity_{group}", well, lambda o: not o.answer.abnormal, f"{unknown} normal")
        section[f"abnormal_{group}_count"], section[f"normal_{group}_count"] = len(ill), len(well)
    return section


def _share(rated: list[RatedImage], holds: Callable[[RatedImage], bool], seed: int) -> Estimate | Withheld:
    """Wilson's interval for one reader; for several, whose answers to one image hang together, by drawing
    images.
    """
    values = np.array([holds(one) for one in rated])
    if _one_each(rated):
        return wilson(int(values.sum()), len(values))
    return statistics.mean_by_image(values, np.array([one.answer.image for one in rated]), seed)


def _mean(rated: list[RatedImage], seed: int) -> Estimate | Withheld | Missing:
    values = np.array([one.answer.realism for one in rated], dtype=float)
    if len(values) < 2:
        return Missing("fewer than two images are rated")
    if _one_each(rated):
        return mean_t(values)
    return statistics.mean_by_image(values, np.array([one.answer.image for one in rated]), seed)


def _one_each(rated: list[RatedImage]) -> bool:
    return len({one.answer.image for one in rated}) == len(rated)


def _agreement(by_reader: dict[str, list[RatedImage]], question: str, seed: int) -> dict[str, Any]:
    """κ of one question over the images that every reader rated."""
    categories, ordered, number_of = QUESTIONS[question]
    given = [{one.answer.image: number_of(one.answer) for one in some} for some in by_reader.values()]
    images = sorted(set.intersection(*(set(one) for one in given)))
    section: dict[str, Any] = {"images": len(images), "readers": len(given)}
    if len(given) < 2:
        put(section, "kappa", Missing("there is one reader"))
        return section
    section["method"] = "Fleiss" if len(given) > 2 else "Cohen, quadratic weights" if ordered else "Cohen"
    if len(images) < 2:
        put(section, "kappa", Missing("fewer than two images are rated by every reader"))
        return section
    table_ = np.array([[one[image] for one in given] for image in images])
    kappa = statistics.agreement(table_, categories, ordered=ordered)
    if not np.isfinite(kappa):
        put(section, "kappa", Missing("all answers are the same, so chance alone would agree"))
        return section
    draws = statistics.bootstrap(
        len(images), lambda drawn: statistics.agreement(table_[drawn], categories, ordered=ordered), seed
    )
    put(section, "kappa", statistics.with_interval(kappa, draws))
    return section


COLUMNS = (
    "reader",
    "image",
    "group",
    "source",
    "text",
    "truth_abnormal",
    "realism",
    "abnormal",
    "x0",
    "y0",
    "x1",
    "y1",
    "judged",
    "right",
    "seconds",
    "answered",
)


def table(rated: list[RatedImage]) -> bytes:
    """All answers beside the key, as CSV. A text that a spreadsheet would run as a formula gets a quote
    before it.
    """
    safe = lambda text: "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
    rows = []
    for one in rated:
        a = one.answer
        region = a.region or ("",) * 4
        truth = "" if one.abnormal is None else int(one.abnormal)
        rows.append(
            (
                safe(a.reader),
                a.image,
                one.group,
                safe(one.source),
                safe(one.text),
                truth,
                a.realism,
                int(a.abnormal),
                *region,
                a.judged,
                int(one.right),
                round(a.seconds, 1),
                a.answered,
            )
        )
    return csv_bytes(COLUMNS, rows)


SHARES = {
    "turing_accuracy": "Right about real or generated",
    "generated_taken_for_real": "Generated images taken for real",
    "real_taken_for_generated": "Real images taken for generated",
    "sensitivity_real": "Sensitivity for the abnormality, real images",
    "specificity_real": "Specificity, real images",
    "sensitivity_generated": "Sensitivity for what the prompt asks, generated images",
    "specificity_generated": "Specificity, generated images",
}


MEANS = {
    "realism_real": "Realism of real images (1 to 5)",
    "realism_generated": "Realism of generated images (1 to 5)",
}


def render(found: dict) -> bytes:
    """The page: tables alone."""
    columns = (
        [*found["readers"], {"reader": "all", **found["all"]}]
        if len(found["readers"]) > 1
        else found["readers"]
    )
    return render_template(
        "medsd_ray.reader_study",
        "report.html.j2",
        report=found,
        columns=columns,
        shares=SHARES,
        means=MEANS,
    )


def summary(found: dict) -> str:
    """A few lines for the terminal, of all readers together."""
    everyone = found["all"]

    def line(name: str, words: str, form: Callable) -> str:
        value = everyone[name]
        if value is None:
            return f"{words:<56}{'–':>8}  {everyone[f'{name}_reason']}"
        return f"{words:<56}{form(value):>8}  ({interval_words(everyone, name, form, '95%: ')})"

    lines = [f"{everyone['answers']} answers of {everyone['readers']} readers"]
    lines += [line(name, words, percent) for name, words in SHARES.items()]
    lines += [line(name, words, number) for name, words in MEANS.items()]
    for question, section in found["agreement"].items():
        method = section.get("method", "kappa")
        said = number(section["kappa"]) if section["kappa"] is not None else f"–  {section['kappa_reason']}"
        if few := section.get("kappa_interval_reason"):
            said += f"  (no interval, {few})"
        lines.append(f"{f'Agreement on {question} ({method})':<56}{said:>8}")
    return "\n".join([*lines, *found["cautions"]])
