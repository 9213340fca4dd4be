"""`medsd augment`: do generated images help a classifier? Trained on real, generated and both, scored on real
held-out patients.

The question of RoentGen (Chambon et al. 2022, arXiv 2211.12737, sec. 4.4), each training repeated with
several seeds.

out/augmentation.json   settings and figures
out/augmentation.csv    each training
out/augmentation.png    the plot
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from medsd_ray.console import stage
from medsd_ray.errors import InputError
from medsd_ray.evaluation.estimates import TOO_FEW, Missing, mean_t, put, too_few, unless_few
from medsd_ray.evaluation.figures.prompt_labels import prompt_labels
from medsd_ray.evaluation.inputs import ImageSet, concatenate, read_inputs
from medsd_ray.evaluation.messages import Say, print_line
from medsd_ray.evaluation.report.format import csv_bytes, dumps, number, span
from medsd_ray.evaluation.versions import versions
from medsd_ray.storage import open_storage
from medsd_ray.storage.outputs import finish, read_finished

if TYPE_CHECKING:
    from medsd_ray.evaluation.networks.classifier import Classifier

RESULT = "augmentation.json"
FIGURES = ("accuracy", "auroc")
VALIDATION = "the epoch is chosen on the real validation split in every case"


MOST, MOST_SEEDS = 1000, 1000
"""Generated images for each real one, and trainings of a case, at most."""


@dataclass(frozen=True)
class Case:
    """What a classifier learns from: `real` images or none, and `ratio` generated ones for each real one."""

    name: str
    real: bool
    ratio: float


def cases(ratios: Sequence[float]) -> list[Case]:
    mixed = [Case(f"real + {ratio:g}x generated", True, ratio) for ratio in ratios]
    return [Case("real", True, 0.0), Case("generated", False, 1.0), *mixed]


def augment(
    real: str,
    generated: str,
    out: str,
    *,
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    num_seeds: int = 3,
    seed: int = 0,
    label: str = "finding",
    say: Say = print_line,
) -> dict:
    """Trains classifiers on real, generated and both kinds of images, each case with several seeds, and
    scores them on real held-out patients.

    A generated image's label is that of the real training images whose caption its prompt is.

    Args:
        real: Image shards that `prepare` wrote, with a training and a test split.
        generated: A folder that `generate` wrote.
        out: Where augmentation.json, .csv and .png go.
        ratios: Generated images for each real one, a case each.
        num_seeds: Trainings of each case; intervals are over them.
        seed: The first of them.
        label: The field of the shards' labels that the classifier learns.
        say: Is told where the computation stands, a line at a time.

    Returns:
        What augmentation.json holds.

    Raises:
        InputError: A split is missing, no prompt is a caption, or a setting is out of range.
    """
    if not 2 <= num_seeds <= MOST_SEEDS or not ratios or not all(0 < ratio <= MOST for ratio in ratios):
        raise InputError(
            f"choose 2 to {MOST_SEEDS} seeds, for an interval over them, and ratios above 0 to {MOST}, such "
            "as --ratio 0.5 --ratio 1"
        )
    inputs = read_inputs(real, generated, None, label)
    store = open_storage(out)
    settings = {
        "real": real,
        "generated": generated,
        "ratios": list(ratios),
        "num_seeds": num_seeds,
        "seed": seed,
        "label": label,
    }
    settings["inputs_sha256"] = inputs.checksum()
    if (known := read_finished(store, RESULT, settings)) is not None:
        say(f"{out}: complete, nothing to do\n{summary(known)}")
        return known
    for split in ("train", "test"):
        if split not in inputs.real:
            raise InputError(
                f"{real}: no {split} split; prepare shards with one, so that no patient both trains and "
                "judges"
            )
    stage("loading torch")
    from medsd_ray.evaluation.networks.classifier import usable_classes

    train, test, made = (
        inputs.real["train"],
        inputs.real["test"],
        labelled(inputs.generated, inputs.real["train"]),
    )
    if not len(made):
        raise InputError(
            f"{generated}: no prompt is a caption of the real training images, so no image has a label"
        )
    few = too_few(len(test), test.patients)
    rows = []
    for case in cases(ratios):
        for number_ in range(num_seeds):
            rows.append(_run(case, train, inputs.real.get("validation"), test, made, seed + number_))
            if few is not None:
                put(rows[-1], "auroc", few)
            say(_line(rows[-1]))
    found = {
        "format": "medsd-augmentation/1",
        "settings": settings,
        "train": len(train),
        "generated": len(made),
        "generated_without_label": len(inputs.generated) - len(made),
        "test": len(test),
        "test_patients": test.patients,
        "classes": usable_classes(train.labels),
        "validation": VALIDATION,
        "cases": summarise(rows, cases(ratios), few),
        "runs": rows,
        "notes": inputs.notes,
        "versions": versions(),
    }
    plot = _plot(found["cases"])
    finish(store, {"augmentation.csv": _table(rows), "augmentation.png": plot, RESULT: dumps(found)})
    say(summary(found))
    return found


def labelled(generated: ImageSet, train: ImageSet) -> ImageSet:
    """The generated images whose prompt names a label, with it."""
    from medsd_ray.evaluation.networks.classifier import usable_classes

    wanted = prompt_labels(train.captions, train.labels, usable_classes(train.labels))
    known = generated.take([i for i, prompt in enumerate(generated.captions) if prompt in wanted])
    labels: list[str | None] = [wanted[prompt] for prompt in known.captions]
    return replace(known, labels=labels)


def mixture(case: Case, train: ImageSet, made: ImageSet, seed: int) -> ImageSet:
    """What the case trains on; without real images as many generated ones as those, or all where there are
    fewer.

    Raises ValueError where there are fewer generated images than the ratio to the real ones asks for.
    """
    from medsd_ray.evaluation.figures.distances import draw

    count = round(case.ratio * len(train))
    if not case.real:
        count = min(count, len(made))
    if count > len(made):
        raise ValueError(f"{count} generated images are needed, there are {len(made)} with a label")
    parts = [train] if case.real else []
    if count:
        parts.append(made.take(draw(made.groups, count, np.random.default_rng([seed, 47]))))
    return concatenate(parts)


def _run(
    case: Case, train: ImageSet, validation: ImageSet | None, test: ImageSet, made: ImageSet, seed: int
) -> dict[str, Any]:
    from medsd_ray.evaluation.networks.classifier import train_classifier

    row: dict[str, Any] = {"case": case.name, "seed": seed}
    try:
        images = mixture(case, train, made, seed)
        row["images"] = len(images)
        scores: dict[str, Any] = score(train_classifier(images, validation, seed, lambda _: None), test)
    except ValueError as error:
        scores = dict.fromkeys(FIGURES, Missing(str(error)))
    for name in FIGURES:
        put(row, name, scores[name])
    return row


def score(classifier: Classifier, images: ImageSet) -> dict[str, Any]:
    """Accuracy and AUROC on the images that have one of the classifier's labels."""
    from medsd_ray.evaluation.figures.accuracy import auroc, judge

    _, probabilities, truth = judge(classifier, images)
    area = auroc(probabilities, truth)
    accuracy = float((probabilities.argmax(1) == truth).mean())
    return {
        "accuracy": accuracy,
        "auroc": Missing("the held-out images show one class only") if area is None else area,
    }


def summarise(rows: list[dict], every: list[Case], few: Missing | None = None) -> list[dict[str, Any]]:
    """For each case: its figures over seeds with Student's interval, and the gain over `real`, seed by seed;
    without intervals where the held-out images are too `few`, and where all seeds give the same.
    """
    found = []
    base = [row for row in rows if row["case"] == "real"]
    for case in every:
        mine = [row for row in rows if row["case"] == case.name]
        one: dict[str, Any] = {"case": case.name, "images": mine[0].get("images")}
        for name in FIGURES:
            values, before = ([row[name] for row in some] for some in (mine, base))
            if None in values:
                put(one, name, Missing(next(row[f"{name}_reason"] for row in mine if row[name] is None)))
                continue
            put(one, name, unless_few(mean_t(np.array(values)), few))
            if case.name != "real" and None not in before:
                put(one, f"{name}_gain", unless_few(mean_t(np.array(values) - np.array(before)), few))
        found.append(one)
    return found


def _line(row: dict) -> str:
    said = row.get("accuracy_reason") or f"accuracy {number(row['accuracy'])}, AUROC {number(row['auroc'])}"
    return f"augment: {row['case']}, seed {row['seed']}: {said}"


def _table(rows: list[dict]) -> bytes:
    columns = ("case", "seed", "images", *FIGURES)
    return csv_bytes(columns, ([row.get(name) for name in columns] for row in rows))


def _plot(found: list[dict]) -> bytes:
    """AUROC of each case with its interval, accuracy where there is no AUROC; the real images' alone as a
    line.
    """
    from medsd_ray.evaluation.report.plots import COLOURS, new_figure

    name = "auroc" if any(one["auroc"] is not None for one in found) else "accuracy"
    shown = [one for one in reversed(found) if one[name] is not None]
    figure, axes = new_figure(7, 0.9 + 0.42 * max(1, len(shown)))
    for place, one in enumerate(shown):
        colour = COLOURS[
            "real" if one["case"] == "real" else "generated" if one["case"] == "generated" else "base"
        ]
        if interval := one[f"{name}_interval"]:
            axes.plot(interval, [place, place], color=colour, linewidth=3, alpha=0.6)
        axes.plot([one[name]], [place], "o", color=colour, markersize=8)
        if one["case"] == "real":
            axes.axvline(one[name], color=colour, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(shown)), [f"{one['case']} ({one['images']})" for one in shown])
    axes.set_xlabel(f"{'AUROC' if name == 'auroc' else name} on real held-out patients, 95% over seeds")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def summary(found: dict) -> str:
    """The table for the terminal."""
    lines = [f"{'trained on':<26}{'images':>8}{'accuracy':>10}  {'95%':<16}{'AUROC':>8}  {'95%':<16}"]
    for one in found["cases"]:
        if one["accuracy"] is None:
            lines.append(f"{one['case']:<26}{'–':>8}  {one['accuracy_reason']}")
            continue
        cells = [
            f"{number(one[n]):>{w}}  {span(one.get(f'{n}_interval')):<16}"
            for n, w in (("accuracy", 10), ("auroc", 8))
        ]
        lines.append(f"{one['case']:<26}{one['images']:>8}" + "".join(cells))
    lines.append(f"scored on {found['test']} real images of {found['test_patients']} held-out patients")
    return "\n".join([*lines, *_without_interval(found["cases"])])


def _without_interval(found: list[dict]) -> list[str]:
    """Why figures in the table have no interval, a line for each reason."""
    reasons: dict[str, list[str]] = {}
    for one in found:
        for figure in FIGURES:
            if why := one.get(f"{figure}_interval_reason"):
                reasons.setdefault(why, []).append(f"{figure} of {one['case']}")
    return [
        f"no intervals and no AUROC, {why}"
        if why.startswith(TOO_FEW)
        else f"no interval, {why}: {', '.join(of)}"
        for why, of in reasons.items()
    ]
