"""All that the driver checks of a run before it writes anything: output, data, model, checkpoint, GPUs."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsd_ray.console import stage
from medsd_ray.data.latents import sample_size
from medsd_ray.data.shards import Index
from medsd_ray.errors import InputError
from medsd_ray.gpus import gpus_of_local_ray
from medsd_ray.models.resolve import encoder_fingerprint, model_fingerprint, weights_fingerprint
from medsd_ray.ray_cluster import cluster_address, ensure_ray
from medsd_ray.runs.checkpoint_reader import CheckpointReader
from medsd_ray.runs.checkpoints import newest_usable, saved_steps
from medsd_ray.runs.names import RUN_SPEC
from medsd_ray.spec.data import DataSource
from medsd_ray.spec.run import RunSpec
from medsd_ray.storage import Storage
from medsd_ray.training.absolute_paths import with_absolute_paths
from medsd_ray.training.auto_settings import choose
from medsd_ray.training.checked_run import CheckedRun, LatentMeta, ModelSize
from medsd_ray.training.condition_data import check_conditions
from medsd_ray.training.machine import look_at_machine
from medsd_ray.training.resume import check_same_run
from medsd_ray.training.sources import (
    FoundSource,
    data_fingerprint,
    find_sources,
    find_split,
    find_validation,
    mix_of,
    shards_fingerprint,
    together,
)
from medsd_ray.training.stages.kinds import kind_of
from medsd_ray.training.task_data import check_task

if TYPE_CHECKING:
    from medsd_ray.models.components import Components


def check_run(run: RunSpec, output: Storage, resume: bool) -> tuple[CheckedRun, RunSpec | None]:
    """Checks all that needs neither torch nor Ray, in seconds. Writes nothing.

    Args:
        run: The run; its folders may be relative to the working directory.
        output: The run's output.
        resume: Whether the run is to go on from what `output` has.

    Returns:
        What is known of the run so far, and the run that wrote the newest checkpoint of `output`, if any.

    Raises:
        InputError: The output, the data, the model's address and layout, the newest checkpoint or the GPUs
            that this machine has do not fit the run.
    """
    check_output(output, resume)
    shards = ", ".join(source.shards for source in run.data.all_sources.values())
    stage(f"checking {shards} and {run.starts_from_in_words}")
    check_gpus_here(run)
    checked = check_data(run)
    return checked, check_newest_checkpoint(checked, output)


def complete_run(checked: CheckedRun, recorded: RunSpec | None) -> CheckedRun:
    """Loads the model, starts or joins Ray, and chooses what the run leaves open.

    Args:
        checked: What `check_run` has found.
        recorded: The run to go on from.

    Returns:
        What the workers need to know, with the run's folders named from the root.

    Raises:
        InputError: The model or the GPUs do not fit the run.
        RunError: Ray does not start.
    """
    run = checked.run
    stage(f"loading {run.starts_from_in_words}")
    checked = check_model(checked)
    ensure_ray(run.resources.num_workers * run.resources.cpus_per_worker)
    check_gpus(run)
    chosen = choose(checked, look_at_machine(), recorded)
    return dataclasses.replace(chosen, run=with_absolute_paths(chosen.run))


def started(output: Storage) -> bool:
    """Whether a run was started in an output."""
    return bool(saved_steps(output)[0]) or output.exists(RUN_SPEC)


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


def check_inputs(run: RunSpec) -> CheckedRun:
    """Checks data and model, and takes their fingerprints. Raises InputError where they do not fit the
    run.
    """
    return check_model(check_data(run))


def check_data(run: RunSpec) -> CheckedRun:
    """The part of `check_inputs` that needs no torch: the indexes of the shards, and the model's files."""
    kind = kind_of(run)
    sources = find_sources(run, kind)
    validation = find_validation(run, kind)
    if not validation and run.checkpoint.select and run.checkpoint.select.figure == "validation_loss":
        raise InputError(
            "checkpoint.select: validation_loss needs a validation split; prepare with one, or leave it out"
        )
    if not validation and run.training.patience:
        raise InputError(
            "training.patience counts validations, and there is no validation split; prepare with one, or "
            "leave it out"
        )
    fingerprints = {"data": data_fingerprint(run, sources)}
    if run.components:
        fingerprints["model"] = model_fingerprint(run.model)
    elif run.task and run.task.network.weights:
        fingerprints["model"] = weights_fingerprint(run.task.network.weights)
    task = check_task(run, together(sources), ", ".join(one.where for one in sources))
    latents = _check_all_latents(run, sources) if kind.shards == "latent" else None
    if run.prior:
        prior = find_split(DataSource(shards=run.prior.data), "train", kind)
        _check_all_latents(run, [sources[0], prior])
        fingerprints["prior"] = shards_fingerprint(prior.index)
    if run.components and (swap := run.components.text_encoder.swap):
        fingerprints["text_encoder"] = encoder_fingerprint(swap.model)
    conditions = check_conditions(run, sources, validation, latents)
    mix = mix_of(run, sources)
    return CheckedRun(run, run.starts_from, mix, validation, latents, fingerprints, task, conditions)


def check_model(checked: CheckedRun) -> CheckedRun:
    """The part of `check_inputs` that loads the model, and what there is to say of captions and sizes."""
    # Imported here, as they take seconds: torch with the first, diffusers with the second.
    from medsd_ray.training.stages.registry import stage_of

    model: Any = stage_of(checked.run).load(checked)
    if checked.latents:
        _tell_of_latents(checked.run, checked.latents, model)
    if loaded := getattr(model, "said", ""):
        print(f"{checked.run.starts_from}: {loaded}", flush=True)
    parameters = [p for module in model.modules().values() for p in module.parameters()]
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    size = ModelSize(trained, sum(p.numel() for p in parameters) - trained)
    return dataclasses.replace(checked, size=size, loaded=loaded)


def _tell_of_latents(run: RunSpec, latents: LatentMeta, components: Components) -> None:
    sources = find_sources(run, kind_of(run))
    for one in sources:
        if said := cut_captions(run, one.store, one.index, components.tokenizer):
            print(f"{one.where}: {said}", flush=True)
    if latents.sample_size != (size := components.sample_size):
        print(
            f"{sources[0].where}: latents of {_by(latents.sample_size)}, where {run.model} makes "
            f"{_by(size)}; the images of the trained model have the latents' size",
            flush=True,
        )


def _check_all_latents(run: RunSpec, sources: list[FoundSource]) -> LatentMeta:
    """What the indexes of latents say, which is the same of all. Raises InputError where it is not, or does
    not fit the run.
    """
    first, *others = [check_latents(run, one) for one in sources]
    for one, latents in zip(sources[1:], others, strict=True):
        if latents.sample_size != first.sample_size:
            raise InputError(
                f"{one.where}: latents of {_by(latents.sample_size)}, but those of {sources[0].where} are "
                f"{_by(first.sample_size)}; prepare both with one --size"
            )
    return first


def check_latents(run: RunSpec, found: FoundSource) -> LatentMeta:
    """What the index of latents says. Raises InputError where they do not fit the run's model or method."""
    where, meta = found.where, found.index.meta
    needed = ("model", "vae_fingerprint", "text_encoder_fingerprint", "scaling_factor", "empty_embedding")
    if absent := [name for name in needed if name not in meta]:
        raise InputError(f"{where}: no {absent[0]} in the index of these latents; encode again")
    frozen_text = "text_encoder" not in run.methods
    if frozen_text and meta["empty_embedding"] is None:
        raise InputError(
            f"{where}: no text embeddings in these latents, which a frozen text_encoder needs; encode again "
            "with --text-embeddings, or train the text_encoder"
        )
    for part in ("vae", *(["text_encoder"] if frozen_text else [])):
        if meta[f"{part}_fingerprint"] != model_fingerprint(run.model, only=(part,)):
            raise InputError(
                f"{where}: encoded with {meta['model']}, whose {part} is not the one of this run's model, "
                f"{run.model}; encode again with --model {run.model}, or set model to {meta['model']}"
            )
    size = sample_size(found.store, found.index)
    return LatentMeta(meta["scaling_factor"], meta["empty_embedding"] if frozen_text else None, size)


def cut_captions(run: RunSpec, store: Storage, index: Index, tokenizer: Any) -> str:
    """What to say of captions that the run's text encoder cuts; '' where there are none.

    Args:
        run: The run.
        store: The split of latents.
        index: Its index, which says it for the model that encoded them.
        tokenizer: Of the text encoder that is trained, which may have words or a length of its own: then the
            captions are read from the shards. None where the text encoder is frozen.
    """
    from medsd_ray.data.latents import read_captions
    from medsd_ray.models.load import load_components
    from medsd_ray.models.tokens import cut_in_words, long_captions, merged, tokenizer_fingerprint

    meta = index.meta
    if "captions" in meta and (
        tokenizer is None or tokenizer_fingerprint(tokenizer) == meta["tokenizer_fingerprint"]
    ):
        return cut_in_words(meta["captions"])
    tokenizer = tokenizer or load_components(run.model, only=("tokenizer",)).tokenizer
    parts = (long_captions(tokenizer, read_captions(store, shard.name)) for shard in index.shards)
    return cut_in_words(merged(parts).counts)


def check_newest_checkpoint(checked: CheckedRun, output: Storage) -> RunSpec | None:
    """The run that wrote the newest checkpoint whose description is whole; None where there is no checkpoint.

    Its tensors are not read: worker 0 checks every file, says what is damaged, and may take an earlier
    checkpoint. Raises InputError where that checkpoint is of another run, or where none is whole.
    """
    if not saved_steps(output)[0]:
        return None

    def described(store: Storage) -> CheckpointReader:
        return CheckpointReader(store, Path(folder, store.url.rpartition("/")[2]))

    with tempfile.TemporaryDirectory(prefix="medsd-") as folder:
        if reader := newest_usable(output, described, warn=lambda text: None):
            return check_same_run(checked, reader.description, reader.store.url)
    return None


def check_gpus_here(run: RunSpec) -> None:
    """Raises InputError where a local Ray would lack the GPUs, as NVIDIA's driver says before Ray starts."""
    available = gpus_of_local_ray()
    if available is not None:
        _check_enough_gpus(run, available)


def check_gpus(run: RunSpec) -> None:
    """Raises InputError where a local Ray lacks the GPUs, for which it would wait for ever. A cluster may yet
    grow.
    """
    import ray

    if not cluster_address():
        _check_enough_gpus(run, int(ray.cluster_resources().get("GPU", 0)))


def _check_enough_gpus(run: RunSpec, available: int) -> None:
    wanted = run.resources.num_workers
    if run.resources.use_gpu and available < wanted:
        raise InputError(
            f"resources: {wanted} workers with a GPU each, but this machine has {available}; "
            "set use_gpu to false"
        )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
