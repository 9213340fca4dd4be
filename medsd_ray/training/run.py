"""From a spec to a finished run: what the driver checks before, and how a run ends."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from medsd_ray.data.shards import Index, open_split
from medsd_ray.errors import InputError, Interrupted
from medsd_ray.models.resolve import SMALL, model_fingerprint
from medsd_ray.ray_cluster import ensure_ray
from medsd_ray.retries import with_retries
from medsd_ray.runs.checkpoints import saved_steps
from medsd_ray.runs.names import MANIFEST, PROGRESS, RAY_TRAIN, RESULT, RUN_SPEC, STOP
from medsd_ray.runs.progress import read_metrics, read_progress
from medsd_ray.spec.load import dump_run, parse_run
from medsd_ray.spec.run import RunSpec
from medsd_ray.storage import FolderStorage, Storage, open_storage
from medsd_ray.training.checked_run import CheckedRun, LatentMeta
from medsd_ray.training.failures import as_user_error
from medsd_ray.training.ray_train import fit_and_show
from medsd_ray.training.resume import check_same_spec
from medsd_ray.training.terminal import RecordCallback, stop_on_signals


def train(
    run: RunSpec,
    resume: bool = False,
    auto_resume: bool = False,
    *,
    stop: threading.Event | None = None,
    on_record: RecordCallback | None = None,
) -> dict[str, Any]:
    """Trains and returns result.json; `auto_resume` goes on where the output has a run, and ends at once
    where it is finished.

    `stop` asks for a checkpoint and an end; Ctrl-C and SIGTERM do where it is absent. `tell` gets every
    record of metrics.jsonl, those of before a resume too, in place of the terminal. Raises InputError,
    RunError, and Interrupted after a stop with a checkpoint.
    """
    output = open_storage(run.output)
    if auto_resume:
        if result := finished(output, run):
            print(summary(result), flush=True)
            return result
        resume = started(output)
    check_output(output, resume)
    checked = dataclasses.replace(prepare(run), run=absolute(run))
    output.write(RUN_SPEC, dump_run(run).encode())
    output.write_json(MANIFEST, manifest(checked, run))
    for stale in (STOP, PROGRESS):
        output.delete(stale)
    seen = len(read_metrics(output)) if resume and on_record is None else 0
    ensure_ray(run.resources.num_workers * run.resources.cpus_per_worker)
    check_gpus(run)
    with stop_on_signals() if stop is None else contextlib.nullcontext(stop) as asked:
        failure = fit_and_show(checked, output, asked, seen, on_record)
    with contextlib.suppress(
        Exception
    ):  # of no harm where they stay; what the run ended with is the thing to tell
        output.delete(STOP)
        output.delete_tree(RAY_TRAIN)
    if failure is not None:
        raise as_user_error(failure)
    progress = with_retries(lambda: read_progress(output))
    if progress.get("state") == "interrupted":
        raise Interrupted(
            f"after step {progress['step']}, with a checkpoint; the same command with --resume goes on"
        )
    result = with_retries(lambda: output.read_json(RESULT))
    print(summary(result), flush=True)
    return result


def started(output: Storage) -> bool:
    return bool(saved_steps(output)[0]) or output.exists(RUN_SPEC)


def finished(output: Storage, run: RunSpec) -> dict[str, Any] | None:
    """The result of this run where the output has it; None where it is not finished. Raises InputError for
    another run's. Not by `storage.outputs.claim`, as a run may go on with other workers.
    """
    try:
        result, spec = output.read_json(RESULT), yaml.safe_load(output.read(RUN_SPEC))
    except FileNotFoundError:
        return None
    check_same_spec(run, parse_run(spec, f"{output.url}/{RUN_SPEC}").model_dump(mode="json"), output.url)
    return result


def check_output(output: Storage, resume: bool) -> None:
    """Raises InputError where a run is there and should not be, or is not there and should."""
    there = started(output)
    if there and not resume:
        raise InputError(
            f"{output.url}: a run was started here; go on with --resume, or choose another output"
        )
    if resume and not there:
        raise InputError(f"{output.url}: no run to resume here; leave --resume out, or mend the output")
    if resume and not saved_steps(output)[0]:
        print(f"no complete checkpoint in {output.url}: training starts at step 0", flush=True)


def absolute(run: RunSpec) -> RunSpec:
    """The run with its folders named from the root: Ray's workers have working directories of their own."""

    def path(address: str | None) -> str | None:
        return address if address is None or "://" in address else str(Path(address).expanduser().absolute())

    data = run.data.model_copy(
        update={name: path(getattr(run.data, name)) for name in ("train", "validation", "cache")}
    )
    model = path(run.model) if Path(run.model).expanduser().is_dir() and run.model != SMALL else run.model
    absolute = run.model_copy(update={"data": data, "model": model, "output": path(run.output)})
    if run.prior:
        absolute = absolute.model_copy(
            update={"prior": run.prior.model_copy(update={"data": path(run.prior.data)})}
        )
    text = run.components.text_encoder
    if text.swap and Path(text.swap.model).expanduser().is_dir():
        text = text.model_copy(update={"swap": text.swap.model_copy(update={"model": path(text.swap.model)})})
        absolute = absolute.model_copy(
            update={"components": run.components.model_copy(update={"text_encoder": text})}
        )
    return absolute


def prepare(run: RunSpec) -> CheckedRun:
    """All that can be checked before a worker starts. Raises InputError."""
    vae_run = run.components.vae.trained
    wanted = "image" if vae_run else "latent"
    train, index = _split(run.data.train, "train", wanted)
    validation = _validation(run, wanted)
    # Here, as they import diffusers, which takes longer than all that is checked before.
    from medsd_ray.models.methods.registry import adaptation
    from medsd_ray.training.adapted import load_adapted

    load_adapted(run)
    latents = None if vae_run else latent_meta(run, run.data.train, index)
    fingerprints = {"model": model_fingerprint(run.model), "data": _data_fingerprint(index)}
    if run.prior:
        _, prior = _split(run.prior.data, "train", wanted)
        latent_meta(run, run.prior.data, prior)
        fingerprints["prior"] = _data_fingerprint(prior)
    for name in run.components.trained:
        settings = getattr(run.components, name)
        if source := adaptation(name, settings).source_fingerprint:
            fingerprints[name] = source(settings)
    return CheckedRun(run, run.model, train, validation, latents, fingerprints)


def _data_fingerprint(index: Index) -> str:
    return hashlib.sha256(json.dumps([[s.name, s.sha256] for s in index.shards]).encode()).hexdigest()


def _split(url: str, split: str, wanted: str) -> tuple[tuple[str, str], Index]:
    store, index = open_split(url, split)
    if index.kind != wanted:
        settings = "encode them first" if wanted == "latent" else "name the shards that prepare wrote"
        part = "the U-Net and text encoder train" if wanted == "latent" else "the vae trains"
        raise InputError(f"{store.url}: {index.kind} shards, but {part} on {wanted} shards; {settings}")
    if not index.samples:
        raise InputError(f"{store.url}: no samples in this split; prepare it from more images")
    where = str(store.root.absolute()) if isinstance(store, FolderStorage) else store.url
    return (where, index.split), index


def _validation(run: RunSpec, wanted: str) -> tuple[str, str] | None:
    """The named validation split, or `validation` beside the training split where that is there and not
    empty.
    """
    if run.data.validation:
        return _split(run.data.validation, "validation", wanted)[0]
    with contextlib.suppress(InputError):
        root = run.data.train.rstrip("/").removesuffix("/train")
        where, index = _split(root, "validation", wanted)
        return where if index.split == "validation" else None
    return None


def check_gpus(run: RunSpec) -> None:
    """Raises InputError where a local Ray lacks the GPUs, for which it would wait for ever. A cluster may yet
    grow.
    """
    import ray

    found, wanted = int(ray.cluster_resources().get("GPU", 0)), run.resources.num_workers
    if run.resources.use_gpu and found < wanted and not os.environ.get("RAY_ADDRESS"):
        raise InputError(
            f"resources: {wanted} workers with a GPU each, but this machine has {found}; set use_gpu to false"
        )


def latent_meta(run: RunSpec, where: str, index: Index) -> LatentMeta:
    """What the index of latents says. Raises InputError where they do not fit the run's model or method."""
    meta = index.meta
    frozen_text = not run.components.text_encoder.trained
    if frozen_text and meta["empty_embedding"] is None:
        raise InputError(
            f"{where}: no text embeddings in these latents, which a frozen text_encoder needs; encode again with "
            "--text-embeddings, or train the text_encoder"
        )
    for part in ("vae", *(["text_encoder"] if frozen_text else [])):
        if meta[f"{part}_fingerprint"] != model_fingerprint(run.model, only=(part,)):
            raise InputError(
                f"{where}: encoded with {meta['model']}, whose {part} is not the one of this run's model, {run.model}; "
                f"encode again with --model {run.model}, or set model to {meta['model']}"
            )
    return LatentMeta(meta["scaling_factor"], meta["empty_embedding"] if frozen_text else None)


def manifest(checked: CheckedRun, run: RunSpec) -> dict[str, Any]:
    """What was run: on which data, model, code and versions."""
    packages = ("medsd", "torch", "ray", "deepspeed", "diffusers", "transformers", "numpy")
    return {
        "spec": run.model_dump(mode="json"),
        "data_sha256": checked.fingerprints["data"],
        "model_sha256": checked.fingerprints["model"],
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


def summary(result: dict[str, Any]) -> str:
    speed = result["images_per_second"]
    return (
        f"done: {result['step']} steps, loss {result['loss']:.4f}"
        + (
            f", validation loss {result['validation_loss']:.5f}"
            if result["validation_loss"] is not None
            else ""
        )
        + (f", {speed:.1f} images/s" if speed else "")
        + f"; Adam's moments: {result['optimizer_bytes_per_worker'] / 1e6:.2f} MB a worker "
        f"({result['world_size']} workers, ZeRO {result['zero_stage']})"
    )
