"""`medsd tune`: what all trials share, then the trials, then what they say together.

study.yaml, study.json, study.md, best.yaml, progress.json
detector/  vae/WAY/  latents/WAY/      made once, before the trials
trials/0000/                           a run's output, with trial.json and images/
tensorboard/                           HParams
tune/                                  Ray Tune's own notes, while it runs
"""

from __future__ import annotations

import contextlib
import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from medsd_ray.data.shards import list_splits, open_split
from medsd_ray.errors import InputError, Interrupted, RunError
from medsd_ray.evaluation.networks import detector
from medsd_ray.evaluation.versions import versions
from medsd_ray.generation.encode import encode
from medsd_ray.generation.prompts import prompts_of_shards
from medsd_ray.models.resolve import SMALL
from medsd_ray.ray_cluster import ensure_ray
from medsd_ray.runs.names import BEST_RUN, RUN_SPEC, STOP, STUDY, STUDY_SPEC, STUDY_TABLE
from medsd_ray.spec import plan
from medsd_ray.spec.load import dump_study, parse_study
from medsd_ray.spec.space import Combination, Dimension, combinations
from medsd_ray.spec.study import StudySpec
from medsd_ray.storage import Storage, open_storage
from medsd_ray.storage import absolute as absolute_store
from medsd_ray.training.run import train
from medsd_ray.training.terminal import stop_on_signals
from medsd_ray.tuning import results, suggest
from medsd_ray.tuning import tensorboard as board
from medsd_ray.tuning.ledger import Ledger

MAY_GROW = {"output", "shards", "search.max_concurrent", "search.num_samples", "budget"}
"""What a resumed study may set anew."""
POLL_S = 1.0
say = partial(print, flush=True)


def tune(study: StudySpec, resume: bool = False, auto_resume: bool = False) -> dict[str, Any]:
    """Runs the study and returns study.json; `auto_resume` goes on where the output has it, and ends at once
    where it is finished. Raises InputError, RunError, and Interrupted after a stop that --resume goes on
    from.
    """
    study = absolute(study)
    output = open_storage(study.output)
    there = check_output(output, study, resume, auto_resume)
    check_shards(study)
    if auto_resume and there and (known := _finished(output, study)):
        say(results.report(study, known))
        return known
    output.write(STUDY_SPEC, dump_study(study).encode())
    output.delete(STOP)
    ledger = Ledger(study, output, versions())
    try:
        ledger.save("running")
        concurrent = start_ray(study)
        # What is made before the trials has the machine to itself. On a cluster, what is free is not for
        # medsd to say.
        judged = prepare(study, ledger, together=1 if os.environ.get("RAY_ADDRESS") else concurrent)
        search(ledger, judged, concurrent)
    except (KeyboardInterrupt, Interrupted):
        ledger.save("interrupted")
        raise
    except (InputError, RunError):
        ledger.save("failed")
        raise
    return finish(ledger)


def absolute(study: StudySpec) -> StudySpec:
    """The study with its folders named from the root: trials run in working directories of their own."""

    def rooted(dimension: Dimension, path: str) -> Dimension:
        if dimension.choice is None:
            return dimension
        return dimension.model_copy(update={"choice": [_rooted(path, value) for value in dimension.choice]})

    return study.model_copy(
        update={
            "output": _folder(study.output),
            "shards": _folder(study.shards),
            "run": {name: _rooted(name, value) for name, value in study.run.items()},
            "space": {path: rooted(dimension, path) for path, dimension in study.space.items()},
        }
    )


def _folder(address: str) -> str:
    return absolute_store(open_storage(address)).url


def _rooted(path: str, value: Any) -> Any:
    """The value at a dotted path of a run, with the addresses in it named from the root. A model's may be a
    hub name.
    """
    if isinstance(value, dict):
        return {name: _rooted(f"{path}.{name}", inner) for name, inner in value.items()}
    if not isinstance(value, str):
        return value
    if path == "prior.data" or (
        path.rpartition(".")[2] == "model" and value != SMALL and Path(value).expanduser().is_dir()
    ):
        return _folder(value)
    return value


# --- before the trials


def check_output(output: Storage, study: StudySpec, resume: bool, auto_resume: bool) -> bool:
    """Whether the study was started there. Raises InputError where it should not be, should be, or is another
    one. Not by `storage.outputs.claim`, as a resumed study may have grown.
    """
    try:
        known = parse_study(yaml.safe_load(output.read(STUDY_SPEC)), f"{output.url}/{STUDY_SPEC}")
    except FileNotFoundError:
        if resume:
            raise InputError(
                f"{output.url}: no study to resume here; leave --resume out, or mend the output"
            ) from None
        if output.exists(RUN_SPEC):
            raise InputError(f"{output.url}: a run's output; choose another one for the study") from None
        return False
    if not (resume or auto_resume):
        raise InputError(
            f"{output.url}: a study was started here; go on with --resume, or choose another output"
        )
    now, then = (_fields(one) for one in (study, known))
    for name in sorted(now.keys() | then.keys()):
        if now.get(name) != then.get(name) and not {name, name.partition(".")[0]} & MAY_GROW:
            raise InputError(
                f"--resume: {name} is {now.get(name)!r}, but {then.get(name)!r} in {output.url}/{STUDY_SPEC}: set it back or choose "
                "another output"
            )
    return True


def _fields(study: StudySpec) -> dict[str, Any]:
    """The fields by name, and those of a field that has its own as `search.seed`."""
    found: dict[str, Any] = {}
    for name, value in study.model_dump(mode="json").items():
        found |= (
            {f"{name}.{inner}": one for inner, one in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
    return found


def _finished(output: Storage, study: StudySpec) -> dict[str, Any] | None:
    """study.json where the study is over, its budget of hours too."""
    with contextlib.suppress(FileNotFoundError):
        known = output.read_json(STUDY)
        ledger = Ledger(study, output, versions())
        if known["state"] == "done" and (ledger.finished or ledger.out_of_time):
            return known
    return None


def check_shards(study: StudySpec) -> None:
    store, index = open_split(study.shards, "train")
    if index.kind != "image":
        raise InputError(
            f"{store.url}: {index.kind} shards; a study starts from the image shards that prepare wrote"
        )
    if "validation" in list_splits(study.shards):
        return
    if study.search.scheduler != "none":
        raise InputError(
            f"{study.shards}: no validation split, by whose loss {study.search.scheduler} compares trials"
        )
    if study.metric == "validation_loss":
        raise InputError(
            f"{study.shards}: no validation split for the metric validation_loss; prepare with one"
        )


def start_ray(study: StudySpec) -> int:
    """How many trials run at the same time: as many as asked for, and as this machine's GPUs allow. CPU slots
    are made for all of them, so that on a small machine workers share cores.
    """
    import ray

    found = [plan.resources(study, one) for one in combinations(study.space)]
    wanted = study.search.max_concurrent
    ensure_ray(wanted * max(one.sizes[-1] * one.cpus_per_worker for one in found))
    gpus = max(one.num_workers if one.use_gpu else 0 for one in found)
    if not gpus or os.environ.get("RAY_ADDRESS"):  # a cluster may yet grow
        return wanted
    return max(1, min(wanted, int(ray.cluster_resources().get("GPU", 0)) // gpus))


def prepare(study: StudySpec, ledger: Ledger, together: int) -> bool:
    """The detector, each way of the VAE, and its latents, each where it is not there yet, with the workers of
    `together` trials. False where the shards have no labels to judge images by, and the metric needs none.
    """
    say("--- detector")
    judged = True
    try:
        detector.train_once(
            study.shards, study.evaluation.label, study.search.seed, ledger.output.child(plan.DETECTOR), say
        )
    except InputError as error:
        if study.metric != "validation_loss":
            raise
        judged = False
        ledger.warnings.append(f"images are not judged: {error}")
    for combination, texts in ways(study, suggest.planned(study)):
        stage = plan.vae_run(study, combination)
        if stage is not None:
            say(f"--- VAE, {stage.components.vae.method.value}")
            train(plan.widened(stage, together), auto_resume=True)
        say("--- encode")
        resources = plan.resources(study, combination)
        encode(
            study.shards, plan.latents(study, combination), model=plan.base_model(study, combination), text_embeddings=texts,
            num_workers=resources.num_workers * together, use_gpu=resources.use_gpu,
        )  # fmt: skip
    return judged


def ways(study: StudySpec, planned: list[Combination] | None) -> list[tuple[Combination, bool]]:
    """A combination for each distinct set of latents that a trained trial reads, and whether any combination
    of that way has a frozen text encoder, which needs text embeddings. Ways of which no trial is planned are
    left out.
    """
    every = list(combinations(study.space))
    frozen = {
        plan.latents(study, one) for one in every if plan.methods(study, one)["text_encoder"] == "frozen"
    }
    found = {plan.latents(study, one): one for one in reversed(planned if planned is not None else every)}
    return [(one, where in frozen) for where, one in reversed(found.items())]


# --- the trials, and after


def search(ledger: Ledger, judged: bool, concurrent: int) -> None:
    """Runs the trials that are left. Raises Interrupted where they were asked to stop."""
    from medsd_ray.tuning.search import run_trials

    failures: list[BaseException] = []
    how = ledger.study.evaluation
    prompts = list(how.prompts) or prompts_of_shards(ledger.study.shards, how.label)
    with stop_on_signals() as stop:

        def run() -> None:
            try:
                run_trials(ledger, prompts, judged, concurrent, stop)
            except BaseException as error:
                failures.append(error)

        # As for Ray Train: in the main thread Ray Tune would take Ctrl-C for itself.
        thread = threading.Thread(target=run, name="ray-tune", daemon=True)
        thread.start()
        told = False
        while thread.is_alive():
            thread.join(POLL_S)
            if stop.is_set() and not told:
                ledger.output.write(STOP, b"")
                say("stopping: running trials leave a checkpoint; Ctrl-C again stops at once")
                told = True
    with contextlib.suppress(Exception):  # of no harm where they stay
        ledger.output.delete(STOP)
        ledger.output.delete_tree(plan.TUNE)
    if failures:
        raise RunError(
            f"Ray Tune failed: {' '.join(str(failures[0]).split())}; --resume goes on"
        ) from failures[0]
    if stop.is_set() and not ledger.finished:
        over = sum(trial["status"] in results.OVER for trial in ledger.trials)
        raise Interrupted(f"after {over} of {ledger.total} trials; the same command with --resume goes on")


def finish(ledger: Ledger) -> dict[str, Any]:
    """Writes what the study has found, and prints it. Raises RunError where no trial came to an end."""
    study, trials = ledger.study, ledger.trials
    failed = [trial for trial in trials if trial["status"] == "failed"]
    found = ledger.save("failed" if failed and len(failed) == len(trials) else "done")
    if found["best"]:
        ledger.output.write(BEST_RUN, results.best_yaml(found["best"], study.name).encode())
    ledger.output.write(STUDY_TABLE, results.report(study, found).encode())
    board.write(trials, ledger.output)
    say(results.report(study, found))
    if found["state"] == "failed":
        raise RunError(f"every trial failed; the first: {failed[0]['error']}")
    return found
