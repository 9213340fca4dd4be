"""`medsd augment`: do generated images help a classifier? Trained on real, generated and both, scored on real
held-out patients.

The question of RoentGen (Chambon et al. 2022, arXiv 2211.12737, sec. 4.4). It is a study: its dimension is
which images a classifier learns from, and each case is a task run that is repeated with several seeds.

out/generated/          the generated images as shards, each with the label of its prompt
out/study/              the study (see tune.py): each trial's run, checkpoints and report
out/augmentation.json   settings and figures
out/augmentation.csv    each training
out/augmentation.png    the plot
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medsd_ray.console import stage
from medsd_ray.data.shards import INDEX, Sample, ShardWriter
from medsd_ray.errors import InputError
from medsd_ray.evaluation.estimates import TOO_FEW, Missing, mean_t, put, too_few, unless_few
from medsd_ray.evaluation.figures.prompt_labels import prompt_labels
from medsd_ray.evaluation.inputs import ImageSet, read_inputs
from medsd_ray.evaluation.messages import Say, print_line
from medsd_ray.evaluation.report.format import csv_bytes, dumps, number, span
from medsd_ray.evaluation.versions import versions
from medsd_ray.spec.load import parse_study
from medsd_ray.spec.study import StudySpec
from medsd_ray.storage import Storage, open_storage
from medsd_ray.storage.outputs import finish, read_finished

RESULT = "augmentation.json"
FIGURES = ("accuracy", "auroc")
VALIDATION = "the checkpoint is chosen on the real validation split in every case"
MOST, MOST_SEEDS = 1000, 32
"""Generated images for each real one, and trainings of a case, at most."""
SHARD_BYTES = 64 * 2**20
SOURCES = "data.sources"
"""The field of a run that makes one case another."""

BATCH = 32
SAMPLES_SEEN = 15_000
"""By each training, whatever it learns from."""
SMALL_UP_TO = 128
"""Pixels of images that the small network learns from; DenseNet-121 learns from larger ones."""
SMALL = {"block_config": [4, 4, 4], "growth_rate": 12, "init_features": 24}


@dataclass(frozen=True)
class Case:
    """What a classifier learns from: `real` images or none, and `ratio` generated ones for each real one."""

    name: str
    real: bool
    ratio: float

    def sources(self, real: str, generated: str) -> list[dict[str, Any]]:
        """As `data.sources` of a run has it; without real images the generated ones are seen alone."""
        found: list[dict[str, Any]] = [{"shards": real}] if self.real else []
        if self.ratio:
            weight = {"weight": self.ratio} if self.real else {}
            found.append({"shards": generated, "kind": "generated"} | weight)
        return found


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
    samples_seen: int = SAMPLES_SEEN,
    say: Say = print_line,
) -> dict:
    """Trains classifiers on real, generated and both kinds of images, each case with several seeds, and
    scores them on real held-out patients.

    A generated image's label is that of the real training images whose caption its prompt is. Where it was
    interrupted, the same call goes on.

    Args:
        real: Image shards that `prepare` wrote, with a training and a test split.
        generated: A folder that `generate` wrote.
        out: Where the study and augmentation.json, .csv and .png go.
        ratios: Generated images for each real one in a pass, a case each.
        num_seeds: Trainings of each case; intervals are over them.
        seed: The first of them.
        label: The field of the shards' labels that the classifier learns.
        samples_seen: By each training.
        say: Is told where the computation stands, a line at a time.

    Returns:
        What augmentation.json holds.

    Raises:
        InputError: A split is missing, no prompt is a caption, or a setting is out of range.
        RunError: Every training failed.
        Interrupted: It was asked to stop; the same call goes on.
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
        "samples_seen": samples_seen,
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
    train, test = inputs.real["train"], inputs.real["test"]
    made = labelled(inputs.generated, train)
    if not len(made):
        raise InputError(
            f"{generated}: no prompt is a caption of the real training images, so no image has a label"
        )
    study = study_of(
        real, store, cases(ratios), seeds=range(seed, seed + num_seeds), label=label,
        steps=max(1, samples_seen // BATCH), size=train.pixels.shape[1],
    )  # fmt: skip
    stage("loading torch")
    from medsd_ray.tuning.tune import tune

    write_shards(store.child("generated"), made, label)
    trials = tune(study, auto_resume=True)["trials"]

    few = too_few(len(test), test.patients)
    rows = rows_of(trials, cases(ratios), len(train), len(made), few)
    found = {
        "format": "medsd-augmentation/2",
        "settings": settings,
        "train": len(train),
        "generated": len(made),
        "generated_without_label": len(inputs.generated) - len(made),
        "test": len(test),
        "test_patients": test.patients,
        "validation": VALIDATION,
        "cases": summarise(rows, cases(ratios), few),
        "runs": rows,
        "notes": [*inputs.notes, *_repeats(cases(ratios), len(train), len(made))],
        "versions": versions(),
    }
    plot = _plot(found["cases"])
    finish(store, {"augmentation.csv": _table(rows), "augmentation.png": plot, RESULT: dumps(found)})
    say(summary(found))
    return found


def study_of(
    real: str, store: Storage, every: Sequence[Case], *, seeds: range, label: str, steps: int, size: int
) -> StudySpec:
    """The study whose trials are the cases, each with every seed, and as many steps."""
    small = size <= SMALL_UP_TO
    network = {"library": "monai", "name": "DenseNet" if small else "DenseNet121"}
    generated = store.child("generated").url
    return parse_study(
        {
            "name": "augment",
            "output": store.child("study").url,
            "shards": real,
            "metric": "accuracy",
            "seeds": list(seeds),
            "space": {SOURCES: {"choice": [case.sources(real, generated) for case in every]}},
            "run": {
                "classifier": {
                    "label": label,
                    "label_smoothing": 0.05,
                    "network": network | ({"arguments": SMALL} if small else {}),
                },
                "data": {"validation": real},
                "training": {
                    "max_steps": steps,
                    "global_batch_size": BATCH,
                    "learning_rate": 2e-3,
                    "weight_decay": 0.05,
                    "warmup_steps": steps // 5,
                    "validate_every": max(1, steps // 10),
                },
                "checkpoint": {"every_steps": max(1, steps // 10)},
            },
        },
        "augment",
    )


def write_shards(store: Storage, made: ImageSet, label: str) -> None:
    """Generated images as a training split, each with its label; where they are there, nothing is done."""
    if store.child("train").exists(INDEX):
        return
    counts: dict[str, int] = {}
    writer = ShardWriter(store.child("train"), SHARD_BYTES, "image", "train", size=made.pixels.shape[1])
    done = len(writer.notes)
    for index, key in enumerate(made.keys):
        value = made.labels[index]
        assert value is not None
        counts[value] = counts.get(value, 0) + 1
        if index >= done:
            pixels = made.pixels[index]
            image = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
            name = f"{index:06d}"
            writer.write(Sample(name, image, made.captions[index], key, {label: value}), {"key": name})
    writer.meta |= {"labels": {label: dict(sorted(counts.items()))}}
    writer.finish()


def labelled(generated: ImageSet, train: ImageSet) -> ImageSet:
    """The generated images whose prompt names a label, with it."""
    classes = sorted({label for label in train.labels if label is not None})
    wanted = prompt_labels(train.captions, train.labels, classes)
    known = generated.take([i for i, prompt in enumerate(generated.captions) if prompt in wanted])
    labels: list[str | None] = [wanted[prompt] for prompt in known.captions]
    return replace(known, labels=labels)


def _repeats(every: Sequence[Case], train: int, made: int) -> list[str]:
    return [
        f"{case.name}: each generated image is seen {case.ratio * train / made:.1f} times a pass"
        for case in every
        if case.real and case.ratio * train > made
    ]


def rows_of(
    trials: Sequence[dict[str, Any]], every: Sequence[Case], train: int, made: int, few: Missing | None
) -> list[dict[str, Any]]:
    """A row for each training, in the order of the cases: what it learnt from, and how it was judged."""
    seeds = len(trials) // len(every)
    rows = []
    for number_, trial in enumerate(trials):
        case = every[number_ // seeds]
        images = round(case.ratio * train) + train if case.real else made
        row: dict[str, Any] = {"case": case.name, "seed": trial["seed"], "images": images}
        for name in FIGURES:
            value = trial["metrics"].get(name)
            put(row, name, Missing(trial["error"] or "not judged") if value is None else value)
        if few is not None:
            put(row, "auroc", few)
        rows.append(row)
    return rows


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
