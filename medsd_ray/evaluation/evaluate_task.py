"""`medsd evaluate RUN`: a classifier or a segmenter judged on real held-out images; report.json, report.html
and pictures.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from medsd_ray.console import stage
from medsd_ray.evaluation.messages import Say, print_line
from medsd_ray.evaluation.report.task_page import summary
from medsd_ray.evaluation.task_options import TaskEvaluation, place
from medsd_ray.evaluation.task_origin import learnt_from
from medsd_ray.evaluation.task_samples import JudgedSplit, find_judges
from medsd_ray.evaluation.versions import own_code
from medsd_ray.gpus import use_gpus
from medsd_ray.models.inference import inference_settings
from medsd_ray.models.networks.task_run import TaskRun
from medsd_ray.runs.checkpoints import run_of
from medsd_ray.runs.names import REPORT_DATA
from medsd_ray.storage import open_storage
from medsd_ray.storage.outputs import Complete, claim
from medsd_ray.training.sources import shards_fingerprint


def evaluate_task(options: TaskEvaluation, run: TaskRun, say: Say = print_line) -> dict[str, Any]:
    """Judges a task run and writes its report. Where the output holds a report of the same run, images and
    settings, nothing is computed.

    Args:
        options: What is asked for.
        run: The run at `options.run`.
        say: Is told where the computation stands, a line at a time.

    Returns:
        What report.json holds.

    Raises:
        InputError: The shards have no split, label, mask or size that can judge the run, or the images are
            those that it learnt from.
        RunError: The network gives no numbers.
    """
    started = time.monotonic()
    judges = find_judges(run, options.real, options.split)
    learnt = learnt_from(run, judges)
    on_gpu = use_gpus(options.use_gpu, 1)
    how = inference_settings(on_gpu, options.precision, False, images=judges.index.samples, compile_from=0)
    out = place(options, run_of(run.checkpoint).url)
    store = open_storage(out)
    checksum = _checksum(run, judges, [options.seed, how.use_gpu, how.precision])
    existing = claim(store, {"inputs_sha256": checksum}, REPORT_DATA, settings_of=_inputs)
    if isinstance(existing, Complete):
        say(f"{out}: this report is already there\n{summary(existing.record)}")
        return existing.record
    stage("loading torch")
    from medsd_ray.evaluation.task_report import write_report

    report = write_report(store, options, judges, how, learnt, checksum, say, started)
    say(f"{summary(report)}\n{out}/{REPORT_DATA}")
    return report


def _checksum(run: TaskRun, judges: JudgedSplit, settings: list[Any]) -> str:
    """Of all that a report follows from: weights, images, settings and this package's own code."""
    parts = [run.fingerprint, shards_fingerprint(judges.index), judges.split, settings, own_code()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _inputs(report: dict[str, Any]) -> dict[str, str]:
    return {"inputs_sha256": report["inputs_sha256"]}
