"""The workers of a run, by Ray Train: started, shown while they run, and started anew where one was lost."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import uuid
from typing import Any

from medsd_ray.data.mixture import SourceMix, SourceSplit
from medsd_ray.retries import with_retries
from medsd_ray.runs.names import RAY_TRAIN, STOP
from medsd_ray.spec.load import parse_run
from medsd_ray.storage import Storage, pyarrow_filesystem
from medsd_ray.training.checked_run import CheckedRun, ConditionMeta, LatentMeta, ModelSize, TaskMeta
from medsd_ray.training.failures import keep_running
from medsd_ray.training.notices import forget, heard, new_topic, notify
from medsd_ray.training.reporter import add_warning
from medsd_ray.training.terminal import RecordCallback, RecordPrinter

POLL_S = 1.0
RESIZE_EVERY_S = 60.0
"""An elastic run looks this often whether there is room for more workers. A resize goes on from the newest
checkpoint.
"""


def fit_and_show(
    checked: CheckedRun,
    output: Storage,
    stop: threading.Event,
    seen: int,
    on_record: RecordCallback | None = None,
) -> BaseException | None:
    """Runs the workers and prints their progress, or tells it, until they end. Returns what they failed
    with.
    """
    failures: list[BaseException] = []
    sizes = checked.run.resources.sizes
    several = f"{sizes[0]} to {sizes[-1]} workers"
    workers = several if len(sizes) > 1 else f"{sizes[0]} worker{'s' if sizes[0] > 1 else ''}"
    show, told = RecordPrinter(output, checked.run.training.max_steps, seen, workers, on_record), False
    topic = new_topic()

    def restarting(text: str) -> None:
        show.warn(text)
        with contextlib.suppress(Exception):  # it was printed; a store that is away must not end the run
            with_retries(lambda: add_warning(output, checked.run.training.max_steps, text))

    def fit() -> None:
        try:
            keep_running(
                lambda: _trainer(checked, output, topic).fit(), checked.run.resources.max_failures, restarting
            )
        except BaseException as error:
            failures.append(error)

    # Ray Train would take the main thread's Ctrl-C for itself and kill the workers: it gets a thread of its
    # own.
    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_S)
        if stop.is_set() and not told:
            with_retries(lambda: output.write(STOP, b""))
            print("stopping after this step, with a checkpoint; Ctrl-C again stops at once", flush=True)
            told = True
        show.update(heard(topic))
    show.update(heard(topic))
    show.close()
    forget(topic)
    return failures[0] if failures else None


def _trainer(checked: CheckedRun, output: Storage, topic: str):
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    run = checked.run
    path, filesystem = pyarrow_filesystem(output)
    sizes = run.resources.sizes
    resources = {"CPU": run.resources.cpus_per_worker} | ({"GPU": 1} if run.resources.use_gpu else {})
    return TorchTrainer(
        worker_entry,
        train_loop_config={"spec": run.model_dump(mode="json"), **_plain(checked), "topic": topic},
        scaling_config=ScalingConfig(
            num_workers=(sizes[0], sizes[-1]) if len(sizes) > 1 else sizes[0],
            elastic_resize_monitor_interval_s=RESIZE_EVERY_S,
            use_gpu=bool(run.resources.use_gpu),
            resources_per_worker=resources,
        ),
        torch_config=TorchConfig(backend="nccl" if run.resources.use_gpu else "gloo"),
        run_config=RunConfig(
            # A name of its own for each start: medsd resumes from its own checkpoints.
            name=f"{run.name}-{uuid.uuid4().hex[:8]}",
            storage_path=f"{path}/{RAY_TRAIN}",
            storage_filesystem=filesystem,
            # Ray Train would also start a run anew whose own code failed: `keep_running` tells the two apart.
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def _plain(checked: CheckedRun) -> dict[str, Any]:
    return {
        "model": checked.model,
        "train": dataclasses.asdict(checked.train),
        "validation": checked.validation and dataclasses.asdict(checked.validation),
        "latents": checked.latents and dataclasses.asdict(checked.latents),
        "fingerprints": checked.fingerprints,
        "task": checked.task and dataclasses.asdict(checked.task),
        "conditions": checked.conditions and checked.conditions.as_values(),
        "size": dataclasses.asdict(checked.size),
        "loaded": checked.loaded,
        "reasons": checked.reasons,
    }


def _from_plain(config: dict[str, Any]) -> CheckedRun:
    return CheckedRun(
        run=parse_run(config["spec"]),
        model=config["model"],
        train=_mix(config["train"]),
        validation=_mix(config["validation"]) if config["validation"] else None,
        latents=LatentMeta(**config["latents"]) if config["latents"] else None,
        fingerprints=config["fingerprints"],
        task=TaskMeta(**config["task"]) if config["task"] else None,
        conditions=ConditionMeta.from_values(config["conditions"]) if config["conditions"] else None,
        size=ModelSize(**config["size"]),
        loaded=config["loaded"],
        reasons=config["reasons"],
    )


def _mix(values: dict[str, Any]) -> SourceMix:
    return SourceMix(tuple(SourceSplit(**source) for source in values["sources"]), values["balance"])


def worker_entry(config: dict[str, Any]) -> None:
    """Ray Train's way into a worker."""
    import ray.train
    import ray.train.torch

    from medsd_ray.training.worker import work

    logging.getLogger().setLevel(
        logging.WARNING
    )  # else a line for each report to Ray Train, and for each S3 client
    checked = _from_plain(config)
    said: list[str] = []

    def say(text: str) -> None:
        if text not in said:
            said.append(text)
            notify(config["topic"], said)

    work(checked, ray.train.torch.get_device(), ray.train.report, say)
