"""From a spec to a finished run: checks in the driver, workers by Ray Train, progress on the terminal, and an end in words."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import signal
import threading
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medsd_ray.cluster import ensure_ray
from medsd_ray.data.shards import Index, open_split
from medsd_ray.errors import InputError, Interrupted, RunError
from medsd_ray.models.load import load_components
from medsd_ray.models.resolve import SMALL, model_fingerprint
from medsd_ray.spec import RunSpec, dump_run, parse_run
from medsd_ray.storage import FolderStorage, Storage, open_storage, pyarrow_filesystem
from medsd_ray.training.checkpoint import saved_steps
from medsd_ray.training.job import Job, LatentMeta
from medsd_ray.training.progress import PROGRESS, STOP, line, read_metrics

POLL_S = 1.0
RAY = "ray"
"""Where Ray Train keeps its own notes below the output while it runs."""


def train(run: RunSpec, resume: bool) -> dict[str, Any]:
    """Trains and returns result.json. Raises InputError, RunError, and Interrupted after a stop with a checkpoint."""
    output = open_storage(run.output)
    check_output(output, resume)
    job = dataclasses.replace(prepare(run), run=absolute(run))
    output.write("run.yaml", dump_run(run).encode())
    output.write_json("manifest.json", manifest(job, run))
    for stale in (STOP, PROGRESS):
        output.delete(stale)
    seen = len(read_metrics(output)) if resume else 0
    ensure_ray(run.resources.num_workers * run.resources.cpus_per_worker)
    check_gpus(run)
    with stop_on_signals() as stop:
        failure = fit_and_show(job, output, stop, seen)
    output.delete(STOP)
    output.delete_tree(RAY)
    state = _read(output, PROGRESS) or {}
    if failure is not None:
        raise in_words(failure, run)
    if state.get("state") == "interrupted":
        raise Interrupted(f"after step {state['step']}, with a checkpoint; the same command with --resume goes on")
    result = output.read_json("result.json")
    print(summary(result), flush=True)
    return result


def check_output(output: Storage, resume: bool) -> None:
    """Raises InputError where a run is there and should not be, or is not there and should."""
    complete, _ = saved_steps(output)
    started = complete or output.exists("run.yaml")
    if started and not resume:
        raise InputError(f"{output.url}: a run was started here; go on with --resume, or choose another output")
    if resume and not started:
        raise InputError(f"{output.url}: no run to resume here; leave --resume out, or mend the output")
    if resume and not complete:
        print(f"no complete checkpoint in {output.url}: training starts at step 0", flush=True)


def absolute(run: RunSpec) -> RunSpec:
    """The run with its folders named from the root: Ray's workers have working directories of their own."""

    def path(address: str | None) -> str | None:
        return address if address is None or "://" in address else str(Path(address).expanduser().absolute())

    data = run.data.model_copy(update={name: path(getattr(run.data, name)) for name in ("train", "validation", "cache")})
    model = path(run.model) if Path(run.model).expanduser().is_dir() and run.model != SMALL else run.model
    return run.model_copy(update={"data": data, "model": model, "output": path(run.output)})


def prepare(run: RunSpec) -> Job:
    """All that can be checked before a worker starts. Raises InputError."""
    vae_run = run.components.vae.trained
    wanted = "image" if vae_run else "latent"
    train, index = _split(run.data.train, "train", wanted)
    validation = _validation(run, wanted)
    load_components(run.model, only=("scheduler", *run.components.trained))
    latents = None if vae_run else latent_meta(run, index)
    shards = json.dumps([[s.name, s.sha256] for s in index.shards])
    fingerprints = {"model": model_fingerprint(run.model), "data": hashlib.sha256(shards.encode()).hexdigest()}
    return Job(run, run.model, train, validation, latents, fingerprints)


def _split(url: str, split: str, wanted: str) -> tuple[tuple[str, str], Index]:
    store, index = open_split(url, split)
    if index.kind != wanted:
        how = "encode them first" if wanted == "latent" else "name the shards that prepare wrote"
        part = "the U-Net and text encoder train" if wanted == "latent" else "the vae trains"
        raise InputError(f"{store.url}: {index.kind} shards, but {part} on {wanted} shards; {how}")
    if not index.samples:
        raise InputError(f"{store.url}: no samples in this split; prepare it from more images")
    where = str(store.root.absolute()) if isinstance(store, FolderStorage) else store.url
    return (where, index.split), index


def _validation(run: RunSpec, wanted: str) -> tuple[str, str] | None:
    """The named validation split, or `validation` beside the training split where that is there and not empty."""
    if run.data.validation:
        return _split(run.data.validation, "validation", wanted)[0]
    with contextlib.suppress(InputError):
        root = run.data.train.rstrip("/").removesuffix("/train")
        where, index = _split(root, "validation", wanted)
        return where if index.split == "validation" else None
    return None


def check_gpus(run: RunSpec) -> None:
    """Raises InputError where a local Ray lacks the GPUs, for which it would wait for ever. A cluster may yet grow."""
    import ray

    found, wanted = int(ray.cluster_resources().get("GPU", 0)), run.resources.num_workers
    if run.resources.use_gpu and found < wanted and not os.environ.get("RAY_ADDRESS"):
        raise InputError(f"resources: {wanted} workers with a GPU each, but this machine has {found}; set use_gpu to false")


def latent_meta(run: RunSpec, index: Index) -> LatentMeta:
    """What the index of latents says. Raises InputError where they do not fit the run's model or method."""
    meta = index.meta
    frozen_text = not run.components.text_encoder.trained
    if frozen_text and meta["empty_embedding"] is None:
        raise InputError(
            f"{run.data.train}: no text embeddings in these latents, which a frozen text_encoder needs; encode again with "
            "--text-embeddings, or train the text_encoder"
        )
    for part in ("vae", *(["text_encoder"] if frozen_text else [])):
        if meta[f"{part}_fingerprint"] != model_fingerprint(run.model, only=(part,)):
            raise InputError(
                f"{run.data.train}: encoded with {meta['model']}, whose {part} is not the one of this run's model, {run.model}; "
                f"encode again with --model {run.model}, or set model to {meta['model']}"
            )
    return LatentMeta(meta["scaling_factor"], meta["empty_ids"], meta["empty_embedding"] if frozen_text else None)


def manifest(job: Job, run: RunSpec) -> dict[str, Any]:
    """What was run: on which data, model, code and versions."""
    packages = ("medsd", "torch", "ray", "deepspeed", "diffusers", "transformers", "numpy")
    return {
        "spec": run.model_dump(mode="json"),
        "data_sha256": job.fingerprints["data"],
        "model_sha256": job.fingerprints["model"],
        "code_sha256": code_fingerprint(),
        "image_digest": os.environ.get("MEDSD_IMAGE_DIGEST"),
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
    }


def code_fingerprint() -> str:
    """SHA-256 over the package's Python files, the same wherever it is installed."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """The first Ctrl-C (or SIGTERM, which `cli.main` turns into one) sets the event; a second one ends at once."""
    asked = threading.Event()

    def handle(*_) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def fit_and_show(job: Job, output: Storage, stop: threading.Event, seen: int) -> BaseException | None:
    """Runs the workers and prints their progress until they end. Returns what they failed with."""
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            _trainer(job, output).fit()
        except BaseException as error:
            failures.append(error)

    # Ray Train would take the main thread's Ctrl-C for itself and kill the workers: it gets a thread of its own.
    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    show, told = Display(output, job.run.training.max_steps, seen), False
    while thread.is_alive():
        thread.join(POLL_S)
        if stop.is_set() and not told:
            output.write(STOP, b"")
            print("stopping after this step, with a checkpoint; Ctrl-C again stops at once", flush=True)
            told = True
        show.update()
    show.update()
    return failures[0] if failures else None


def _trainer(job: Job, output: Storage):
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    run = job.run
    path, filesystem = pyarrow_filesystem(output)
    resources = {"CPU": run.resources.cpus_per_worker} | ({"GPU": 1} if run.resources.use_gpu else {})
    return TorchTrainer(
        worker_entry,
        train_loop_config={"spec": run.model_dump(mode="json"), **_plain(job)},
        scaling_config=ScalingConfig(
            num_workers=run.resources.num_workers, use_gpu=run.resources.use_gpu, resources_per_worker=resources
        ),
        torch_config=TorchConfig(backend="nccl" if run.resources.use_gpu else "gloo"),
        run_config=RunConfig(
            # A name of its own for each attempt: medsd resumes from its own checkpoints.
            name=f"{run.name}-{uuid.uuid4().hex[:8]}",
            storage_path=f"{path}/{RAY}",
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=run.resources.max_failures),
        ),
    )


def _plain(job: Job) -> dict[str, Any]:
    return {
        "model": job.model,
        "train": job.train,
        "validation": job.validation,
        "latents": job.latents and dataclasses.asdict(job.latents),
        "fingerprints": job.fingerprints,
    }


def worker_entry(config: dict[str, Any]) -> None:
    """Ray Train's way into a worker."""
    import ray.train
    import ray.train.torch

    from medsd_ray.training.worker import work

    latents = LatentMeta(**config["latents"]) if config["latents"] else None
    run = parse_run(config["spec"])
    job = Job(run, config["model"], config["train"], config["validation"], latents, config["fingerprints"])
    work(job, ray.train.torch.get_device(), ray.train.report)


class Display:
    """Prints what is new in a run's records, one line each."""

    def __init__(self, output: Storage, total: int, seen: int):
        self.output, self.total, self.seen, self.warned = output, total, seen, 0

    def update(self) -> None:
        with contextlib.suppress(Exception):  # the store may answer again at the next look
            progress = _read(self.output, PROGRESS)
            if progress is None:
                return
            records = read_metrics(self.output)
            self.seen = min(self.seen, len(records))
            for record in records[self.seen :]:
                print(line(record, self.total), flush=True)
            self.seen = len(records)
            warnings = progress.get("warnings", [])
            for warning in warnings[self.warned :]:
                print(f"warning: {warning}", flush=True)
            self.warned = len(warnings)


def in_words(failure: BaseException, run: RunSpec) -> Exception:
    """The error of a failed run as one that a user can act on."""
    worker_failures = list(getattr(failure, "worker_failures", {}).values()) or [failure]
    causes = [getattr(f, "cause", None) or f for f in worker_failures]
    for kind in (InputError, RunError):
        for cause in causes:
            while cause is not None:
                if isinstance(cause, kind):
                    return cause
                cause = getattr(cause, "base_exc", None) or cause.__cause__
    text = str(causes[0]).strip().splitlines()
    return RunError(f"training failed: {text[-1] if text else type(causes[0]).__name__}; Ray's logs say more")


def summary(result: dict[str, Any]) -> str:
    speed = result["images_per_second"]
    return (
        f"done: {result['step']} steps, loss {result['loss']:.4f}"
        + (f", validation loss {result['validation_loss']:.5f}" if result["validation_loss"] is not None else "")
        + (f", {speed:.1f} images/s" if speed else "")
        + f"; Adam's moments: {result['optimizer_bytes_per_worker'] / 1e6:.2f} MB a worker "
        f"({result['world_size']} workers, ZeRO {result['zero_stage']})"
    )


def _read(output: Storage, key: str) -> Any:
    try:
        return output.read_json(key)
    except (FileNotFoundError, ValueError):
        return None
