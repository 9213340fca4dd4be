"""`medsd tune`: what all trials share, then the trials, then what they say together.

study.yaml, study.json, study.md, best.yaml, progress.json
detector/  vae/WAY/  latents/WAY/      made once, before the trials
trials/0000/                           a run's output, with trial.json and images/
tensorboard/                           HParams
tune/                                  Ray Tune's own notes, while it runs
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from medsd_ray.errors import InputError, Interrupted, RunError
from medsd_ray.evaluation.messages import print_line
from medsd_ray.evaluation.versions import versions
from medsd_ray.generation.prompts import prompts_of_shards
from medsd_ray.gpus import gpus_of_local_ray
from medsd_ray.ray_cluster import cluster_address, ensure_ray
from medsd_ray.runs.names import BEST_RUN, STOP, STUDY_SPEC, STUDY_TABLE
from medsd_ray.spec import plan
from medsd_ray.spec.load import dump_study
from medsd_ray.spec.space import combinations
from medsd_ray.spec.study import StudySpec
from medsd_ray.storage import open_storage
from medsd_ray.training.terminal import stop_on_signals
from medsd_ray.tuning import markdown, tensorboard
from medsd_ray.tuning.addresses import absolute
from medsd_ray.tuning.preparation import check_models, check_shards, prepare
from medsd_ray.tuning.resume import check_output, finished_study
from medsd_ray.tuning.study_record import StudyRecord
from medsd_ray.tuning.summary import OVER, best_yaml

POLL_S = 1.0


def tune(study: StudySpec, resume: bool = False, auto_resume: bool = False) -> dict[str, Any]:
    """Runs a study's trials and writes what they say together.

    Args:
        study: The study; its output holds everything that the trials make.
        resume: Goes on with a study that was started in the output.
        auto_resume: Goes on where the output has the study, and starts it where it has not. Ends at once
            where it is finished.

    Returns:
        What study.json holds.

    Raises:
        InputError: The output, the shards or a run do not fit the study.
        RunError: Ray Tune failed, or every trial did.
        Interrupted: The study was asked to stop; `resume` goes on.
    """
    study = absolute(study)
    output = open_storage(study.output)
    there = check_output(output, study, resume, auto_resume)
    check_shards(study)
    if auto_resume and there and (finished := finished_study(output, study)):
        print_line(markdown.report(study, finished))
        return finished
    check_models(study)
    check_gpus_here(study)
    concurrent = start_ray(study)  # first, so that nothing is written where there is none
    output.write(STUDY_SPEC, dump_study(study).encode())
    output.delete(STOP)
    record = StudyRecord(study, output, versions())
    try:
        record.save("running")
        # What is made before the trials has the machine to itself. On a cluster, what is free is not for
        # medsd to say.
        judged = prepare(study, record, together=1 if cluster_address() else concurrent)
        search(record, judged, concurrent)
    except (KeyboardInterrupt, Interrupted):
        record.save("interrupted")
        raise
    except (InputError, RunError):
        record.save("failed")
        raise
    return finish(record)


def check_gpus_here(study: StudySpec) -> None:
    """Raises InputError where a trial asks for GPUs that this machine lacks, as NVIDIA's driver says."""
    available = gpus_of_local_ray()
    if available is None:
        return
    resources = [plan.resources(study, combination) for combination in combinations(study.space)]
    wanted = max(of_trial.num_workers if of_trial.use_gpu else 0 for of_trial in resources)
    if wanted > available:
        raise InputError(
            f"run.resources: a trial of {wanted} workers with a GPU each, but this machine has {available}; "
            "set use_gpu to false"
        )


def start_ray(study: StudySpec) -> int:
    """How many trials run at the same time: as many as asked for, and as this machine's GPUs allow. CPU slots
    are made for all of them, so that on a small machine workers share cores.
    """
    import ray

    resources = [plan.resources(study, combination) for combination in combinations(study.space)]
    wanted = study.search.max_concurrent
    ensure_ray(wanted * max(of_trial.sizes[-1] * of_trial.cpus_per_worker for of_trial in resources))
    gpus = max(of_trial.num_workers if of_trial.use_gpu is not False else 0 for of_trial in resources)
    available = int(ray.cluster_resources().get("GPU", 0))
    if not gpus or not available or cluster_address():  # a cluster may yet grow
        return wanted
    return max(1, min(wanted, available // gpus))


def search(record: StudyRecord, judged: bool, concurrent: int) -> None:
    """Runs the trials that are left. Raises Interrupted where they were asked to stop."""
    from medsd_ray.tuning.search import run_trials

    failures: list[BaseException] = []
    evaluation = record.study.evaluation
    prompts = list(evaluation.prompts)
    if record.study.subject == "components":
        prompts = prompts or prompts_of_shards(record.study.shards, evaluation.label)
    with stop_on_signals() as stop:

        def run() -> None:
            try:
                run_trials(record, prompts, judged, concurrent, stop)
            except BaseException as error:
                failures.append(error)

        # As for Ray Train: in the main thread Ray Tune would take Ctrl-C for itself.
        thread = threading.Thread(target=run, name="ray-tune", daemon=True)
        thread.start()
        told = False
        while thread.is_alive():
            thread.join(POLL_S)
            if stop.is_set() and not told:
                record.output.write(STOP, b"")
                print_line("stopping: running trials leave a checkpoint; Ctrl-C again stops at once")
                told = True
    with contextlib.suppress(Exception):  # of no harm where they stay
        record.output.delete(STOP)
        record.output.delete_tree(plan.TUNE)
    if failures:
        raise RunError(
            f"Ray Tune failed: {' '.join(str(failures[0]).split())}; --resume goes on"
        ) from failures[0]
    if stop.is_set() and not record.finished:
        over = sum(trial["status"] in OVER for trial in record.trials)
        raise Interrupted(f"after {over} of {record.total} trials; the same command with --resume goes on")


def finish(record: StudyRecord) -> dict[str, Any]:
    """Writes what the study has found, and prints it. Raises RunError where no trial came to an end."""
    study, trials = record.study, record.trials
    failed = [trial for trial in trials if trial["status"] == "failed"]
    summary = record.save("failed" if failed and len(failed) == len(trials) else "done")
    if summary["best"]:
        record.output.write(BEST_RUN, best_yaml(summary["best"], study.name).encode())
    record.output.write(STUDY_TABLE, markdown.report(study, summary).encode())
    tensorboard.write(trials, record.output)
    print_line(markdown.report(study, summary))
    if summary["state"] == "failed":
        raise RunError(f"every trial failed; the first: {failed[0]['error']}")
    return summary
