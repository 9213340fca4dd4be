"""The report of a task run put together: sections of figures, pictures, the page."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from medsd_ray.addresses import shown
from medsd_ray.errors import InputError
from medsd_ray.evaluation.estimates import Missing, put
from medsd_ray.evaluation.figures import classification, segmentation
from medsd_ray.evaluation.figures.calibration import reliability
from medsd_ray.evaluation.figures.classification import Decisions
from medsd_ray.evaluation.figures.groups import UNKNOWN, Judged, domain_rows, subgroup_sections
from medsd_ray.evaluation.figures.judgement import Judgement, judge
from medsd_ray.evaluation.figures.patient_draws import PatientDraws
from medsd_ray.evaluation.figures.segmentation import Overlaps
from medsd_ray.evaluation.figures.training_record import train_section
from medsd_ray.evaluation.messages import Say
from medsd_ray.evaluation.report import task_page, task_plots
from medsd_ray.evaluation.report.format import dumps
from medsd_ray.evaluation.report.plots import figures_curve, loss_curve
from medsd_ray.evaluation.task_options import TaskEvaluation
from medsd_ray.evaluation.task_origin import Learnt
from medsd_ray.evaluation.task_samples import JudgedSplit
from medsd_ray.evaluation.versions import versions
from medsd_ray.models.inference import Inference
from medsd_ray.models.networks.load import load_predictor
from medsd_ray.models.networks.task_run import TaskRun
from medsd_ray.runs.checkpoints import run_of
from medsd_ray.runs.chosen import about_checkpoint
from medsd_ray.runs.names import REPORT_DATA, REPORT_PAGE
from medsd_ray.runs.overfitting import overfitting
from medsd_ray.runs.record import RunRecord, read_run
from medsd_ray.storage import Storage
from medsd_ray.storage.outputs import finish
from medsd_ray.times import now

HEADLINE = {"classifier": "accuracy", "segmenter": "dice"}
"""The figure whose gap between groups is told."""


def write_report(
    store: Storage,
    options: TaskEvaluation,
    judges: JudgedSplit,
    how: Inference,
    learnt: Learnt,
    checksum: str,
    say: Say,
    started: float,
) -> dict[str, Any]:
    """Computes the report of a task run and writes it. `started` is by time.monotonic(). Raises InputError
    and RunError as `judge` does, before anything is written.
    """
    run = judges.run
    record = _record(run)
    found = judge(load_predictor(run, how), judges)
    say(f"evaluate: the {run.task} on {len(found.samples)} images of the {judges.split} split")
    report = _about(options, judges, how, checksum) | figures(found, run, options.seed)
    report["reference"] = (
        f"the {judges.split} split: {len(found.samples)} real images of {report['figures']['patients']} "
        "patients"
    )
    report["left_out"] = dict(judges.left_out)
    report["train"] = train_section(record)
    report["run"] = {"output": run_of(run.checkpoint).url, "spec": record.spec, "manifest": record.manifest}
    for row in report["by_domain"]:
        row["learnt"] = None if row["domain"] == UNKNOWN else learnt.has(row["domain"])
    said = overfitting(record.metrics)
    report["versions"] = versions()
    report["notes"] = [learnt.said, *([f"In training {said}."] if said else [])]
    report["cautions"] = task_page.cautions(report)
    report["seconds"] = round(time.monotonic() - started, 1)
    pictures = task_plots.pictures(report, found)
    curves = {
        "Training and validation loss": loss_curve(record.metrics),
        "Figures of validation": figures_curve(record.metrics),
    }
    page = task_page.render(report, pictures, curves)
    store.delete_tree(task_plots.FAILURES)
    finish(store, {**pictures, REPORT_DATA: dumps(report), REPORT_PAGE: page})
    return report


def _about(options: TaskEvaluation, judges: JudgedSplit, how: Inference, checksum: str) -> dict[str, Any]:
    run = judges.run
    return {
        "format": task_page.FORMAT,
        "title": f"{run.description['spec'].get('name', 'A run')}: evaluation of a {run.task}",
        "created": now(),
        "command": options.command(),
        "inputs_sha256": checksum,
        "model": shown(options.run),
        "model_fingerprint": run.fingerprint,
        "step": run.description["step"],
        "checkpoint": about_checkpoint(run.checkpoint, options.run),
        "task": run.task,
        "subject": run.subject,
        "classes": list(run.classes),
        "split": judges.split,
        "device": "gpu" if how.use_gpu else "cpu",
        "precision": how.precision,
        "validation_loss": run.description.get("validation_loss"),
    }


def figures(found: Judgement, run: TaskRun, seed: int) -> dict[str, Any]:
    """Every section that the images decide: overall, by class, domain and subgroup, and calibration."""
    draws = PatientDraws([sample.patient for sample in found.samples], seed)
    of, everything = found.found, np.arange(len(found.samples))
    forms = (classification if isinstance(of, Decisions) else segmentation).OVERALL
    judged = Judged(lambda some: of.take(some).overall, forms, draws, HEADLINE[run.task])
    sections: dict[str, Any] = {"figures": judged.row(everything)}
    rows = _decision_rows if isinstance(of, Decisions) else _overlap_rows
    sections["by_class"] = rows(of, draws, run.classes)  # type: ignore[arg-type]
    sections["by_domain"] = domain_rows(judged, found.samples)
    sections["by_subgroup"] = subgroup_sections(judged, found.samples)
    sections["reliability"] = reliability(of.bins)
    if isinstance(of, Decisions):
        sections["confusion"] = of.confusion().tolist()
    sections["failures"] = [failure.said for failure in found.failures]
    return sections


def _decision_rows(of: Decisions, draws: PatientDraws, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Each class of a classifier. A share of the images of a class is judged by those images alone, and so
    has no interval where they are few.
    """
    everything = np.arange(len(of.truth))
    rows = []
    for number, name in enumerate(classes):
        members = of.truth == number
        row: dict[str, Any] = {"class": name, "images": int(members.sum())}
        found = draws.estimates(lambda w, n=number: of.of_class(n, w), everything, classification.BY_CLASS)
        for figure, judges in (("sensitivity", members), ("specificity", ~members)):
            found[figure] = _share(of, draws, figure, number, np.flatnonzero(judges))
        for figure, value in found.items():
            put(row, figure, value)
        rows.append(row)
    return rows


def _share(of: Decisions, draws: PatientDraws, figure: str, number: int, judges: np.ndarray) -> Any:
    """Sensitivity or specificity of a class over the images (indices) that it is a share of."""
    form = classification.BY_CLASS[figure]
    if not len(judges):
        return Missing(form.undefined)
    some = of.take(judges)
    only = lambda weights: {figure: some.of_class(number, weights)[figure]}
    return draws.estimates(only, judges, {figure: form})[figure]


def _overlap_rows(of: Overlaps, draws: PatientDraws, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Each class of a segmenter, over the images that have it."""
    rows = []
    for number, name in enumerate(classes):
        row: dict[str, Any] = {"class": name} | of.counts(number)
        members = np.flatnonzero(of.true[:, number] > 0)
        some = of.take(members)
        if len(members):
            found = draws.estimates(
                lambda w, s=some, n=number: s.of_class(n, w), members, segmentation.BY_CLASS
            )
        else:
            found = {name: Missing(form.undefined) for name, form in segmentation.BY_CLASS.items()}
        for figure, value in found.items():
            put(row, figure, value)
        rows.append(row)
    return rows


def _record(run: TaskRun) -> RunRecord:
    """The record of the run that the checkpoint lies in; empty where it was copied out of it."""
    try:
        return read_run(run_of(run.checkpoint).url)
    except InputError:
        return RunRecord()
