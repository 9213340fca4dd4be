"""Where a model's weights are: an address taken apart into a local pipeline folder and the checkpoints laid
over it.

An address is `medsd-small`, a pipeline folder, a run's output or one checkpoint of it (each on disk or
`s3://`), or a hub name. A checkpoint names the model it was trained from, which may itself be a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsd_ray.addresses import path_of
from medsd_ray.errors import InputError
from medsd_ray.models.layout import CARD, check_layout
from medsd_ray.runs.checkpoints import describe_checkpoint, task_of, trained
from medsd_ray.runs.chosen import about_checkpoint, chosen_checkpoint
from medsd_ray.runs.names import CHECKPOINT, RUN_SPEC
from medsd_ray.spec.conditions import CONDITIONS
from medsd_ray.spec.run import RANDOM, SMALL
from medsd_ray.spec.tasks import TASKS
from medsd_ray.storage import FolderStorage, S3Storage, Storage, open_storage, sha256_file

SMALL_FOLDER = Path(__file__).parents[1] / "base_model" / "medsd_small"
FOLDERS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
_PARTS = (*FOLDERS, CONDITIONS)
_NEEDED = re.compile(rf"{CARD}|({'|'.join(_PARTS)})/[^/]+\.(json|txt|safetensors)")
_WEIGHTS = re.compile(r"(?!.*\.optimizer\.).*\.safetensors")
ENCODER_FILES = re.compile(r"[^/]+\.(json|txt|model|safetensors)")
"""What a transformers encoder with its tokenizer is made of, in one folder."""
_HUB_NAME = re.compile(r"(?=.{1,96}$)[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*(?<![.-])(?<!\.git)", re.ASCII)
"""OWNER/NAME, as huggingface_hub takes them."""
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


@dataclass(frozen=True)
class Resolved:
    """`folder` is a local pipeline; `checkpoints` lie over it in this order, the last one named by the
    address.
    """

    folder: Path
    checkpoints: tuple[Storage, ...] = ()


@dataclass(frozen=True)
class NetworkWeights:
    """What the network of a task run starts from; one of the three is there."""

    folder: Path | None = None
    """A local folder with safetensors and what describes them."""
    checkpoint: Storage | None = None
    """Of another task run."""
    pipeline: str | None = None
    """The address, from anywhere, of a diffusion model, whose VAE has an encoder."""


def resolve(model: str, near: Storage | None = None) -> Resolved:
    """Finds a model's parts, downloading what is remote into the local cache.

    Args:
        model: `medsd-small`, a folder or `s3://` address of a pipeline, a run's output or a checkpoint, or a
            hub name.
        near: The checkpoint that names `model` as its base, where one does: a relative path is looked for
            from the working directory, then from the checkpoint's folder upwards, so that a folder with runs
            and models can be moved.

    Returns:
        The pipeline's local folder, and the checkpoints over it.

    Raises:
        InputError: There is no such model, it has another layout than the one that medsd trains, or the
            checkpoint is not complete.
    """
    if model == SMALL:
        return Resolved(SMALL_FOLDER)
    store = _find(model, near)
    if store is None:
        patterns = [
            CARD,
            *(f"{part}/*{suffix}" for part in _PARTS for suffix in (".json", ".txt", ".safetensors")),
        ]
        return Resolved(_from_hub(model, near, patterns, check_card=True))
    checkpoint = _checkpoint(store)
    if checkpoint is None:
        return Resolved(_local_pipeline(store))
    description = describe_checkpoint(checkpoint)
    if task := task_of(description):
        raise InputError(f"{store.url}: a {task}, which makes no images; give a run that trained components")
    base = resolve(description["model"], near=checkpoint)
    return Resolved(base.folder, (*base.checkpoints, checkpoint))


def resolve_encoder(model: str) -> Path:
    """A local folder of a text encoder, downloaded where it is remote. Raises InputError where there is
    none.
    """
    store = _find(model, None)
    if store is None:
        return _from_hub(model, None, ["*.json", "*.txt", "*.model", "*.safetensors"], check_card=False)
    if not store.exists("config.json"):
        raise InputError(
            f"{store.url}: no config.json here; give the folder of a transformers encoder with its tokenizer"
        )
    return store.root if isinstance(store, FolderStorage) else cached(store, ENCODER_FILES)


def encoder_fingerprint(model: str) -> str:
    """SHA-256 over the files of a text encoder. Raises InputError where there is none."""
    folder = resolve_encoder(model)
    return _digest(_file_sums(folder))


def _file_sums(folder: Path) -> dict[str, str]:
    return {
        path.name: sha256_file(path)
        for path in sorted(folder.iterdir())
        if ENCODER_FILES.fullmatch(path.name)
    }


def resolve_weights(address: str, near: Storage | None = None) -> NetworkWeights:
    """Finds what a task run's network starts from, downloading what is remote into the local cache.

    Args:
        address: A folder, `s3://` address or hub name of safetensors or of a diffusers pipeline, the output
            or a checkpoint of a run, or `medsd-small`.
        near: The checkpoint that names it, where one does; see `resolve`.

    Raises:
        InputError: Nothing is there, or no safetensors are.
    """
    if address == SMALL:
        return NetworkWeights(pipeline=SMALL)
    if "://" not in address and path_of(address).is_file():
        raise InputError(f"{address}: weights are a folder with safetensors, not one file; give its folder")
    store = _find(address, near)
    if store is None:
        folder = _from_hub(address, near, ["*.json", "*.safetensors"], check_card=False, ignored=("*/*",))
        if (folder / CARD).is_file():
            return NetworkWeights(pipeline=address)
        _check_weights(FolderStorage(folder), address)
        return NetworkWeights(folder)
    if checkpoint := _checkpoint(store):
        if describe_checkpoint(checkpoint)["components"].keys() & set(TASKS):
            return NetworkWeights(checkpoint=checkpoint)
        return NetworkWeights(pipeline=_from_anywhere(checkpoint))
    if store.exists(CARD):
        return NetworkWeights(pipeline=_from_anywhere(store))
    _check_weights(store, store.url)
    return NetworkWeights(store.root if isinstance(store, FolderStorage) else cached(store, ENCODER_FILES))


def weights_fingerprint(address: str, near: Storage | None = None) -> str:
    """SHA-256 over all that a task run's network starts from; the same wherever it lies. Raises InputError as
    `resolve_weights` does.
    """
    found = resolve_weights(address, near)
    if found.pipeline:
        return model_fingerprint(found.pipeline, only=("vae",))
    if found.checkpoint:
        base = describe_checkpoint(found.checkpoint)["model"]
        below = None if base == RANDOM else weights_fingerprint(base, near=found.checkpoint)
        return _digest([below, _checkpoint_sums(found.checkpoint)])
    assert found.folder
    return _digest(_file_sums(found.folder))


def check_weights_base(checkpoint: Storage) -> None:
    """Raises InputError where a task run's checkpoint was trained from other weights than lie there now."""
    description = describe_checkpoint(checkpoint)
    recorded, base = description.get("fingerprints", {}).get("model"), description["model"]
    if base != RANDOM and recorded not in (None, weights_fingerprint(base, near=checkpoint)):
        raise _changed(checkpoint, base)


def _from_anywhere(store: Storage) -> str:
    return str(store.root.absolute()) if isinstance(store, FolderStorage) else store.url


def _check_weights(store: Storage, where: str) -> None:
    keys = [key for key in store.list() if "/" not in key]
    if any(key.endswith(".safetensors") for key in keys):
        return
    if any(key.endswith(_PICKLES) for key in keys):
        raise InputError(
            f"{where}: only pickled weights here, which may run code; convert them to safetensors"
        )
    raise InputError(
        f"{where}: no weights here; give a folder with safetensors, or a task run's output or checkpoint"
    )


def find_checkpoint(address: str) -> Storage | None:
    """The checkpoint that an address names (a run's output: its chosen one), or None for any other model."""
    if address == SMALL or (store := _find(address, None)) is None:
        return None
    return _checkpoint(store)


def used_checkpoint(address: str) -> dict[str, Any] | None:
    """The `step` of the checkpoint that an address names, and `why` that one; None for any other model."""
    checkpoint = find_checkpoint(address)
    return checkpoint and about_checkpoint(checkpoint, address)


def model_fingerprint(model: str, *, raw: bool = False, only: tuple[str, ...] = FOLDERS) -> str:
    """SHA-256 over the names and SHA-256 of all weight files that make up a model; the same wherever it lies.

    `raw` tells a checkpoint's trained weights from their moving average. `only` limits it to these components
    and the checkpoints that trained one of them. Raises InputError as `resolve` does.
    """
    resolved = resolve(model)
    stores = [
        store for store in resolved.checkpoints if trained(describe_checkpoint(store)).keys() & set(only)
    ]
    layers: list[object] = [_weight_sums(resolved.folder, only), *map(_checkpoint_sums, stores)]
    return _digest([*layers, "raw"] if raw and stores else layers)


def checkpoint_fingerprint(store: Storage) -> str:
    """SHA-256 over the weight files of a task run's checkpoint, and over the weights that it started from."""
    base = describe_checkpoint(store).get("fingerprints", {}).get("model")
    return _digest([base, _checkpoint_sums(store)])


def check_bases(resolved: Resolved) -> None:
    """Raises InputError where a checkpoint was trained from another state of its base model than is there
    now.
    """
    layers: list[object] = [_weight_sums(resolved.folder, FOLDERS)] if resolved.checkpoints else []
    for store in resolved.checkpoints:
        description = describe_checkpoint(store)
        recorded = description.get("fingerprints", {}).get("model")
        if recorded not in (None, _digest(layers)):
            raise _changed(store, description["model"])
        layers.append(_checkpoint_sums(store))


def _changed(store: Storage, base: str) -> InputError:
    return InputError(
        f"{store.url}: its base model, {base}, has changed since it was trained; bring back the earlier one "
        "(of a run, name the checkpoint that it was)"
    )


def _digest(layers: list[object] | dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(layers, sort_keys=True).encode()).hexdigest()


def _weight_sums(folder: Path, only: tuple[str, ...]) -> dict[str, str]:
    parts = (*only, CONDITIONS) if "unet" in only else only  # which no U-Net is without that has some
    files = (path for part in parts for path in sorted(folder.joinpath(part).glob("*.safetensors")))
    return {f"{path.parent.name}/{path.name}": sha256_file(path) for path in files}


def _checkpoint_sums(store: Storage) -> dict[str, str]:
    return {
        name: entry["sha256"] for name, entry in (store.complete() or {}).items() if _WEIGHTS.fullmatch(name)
    }


def _find(model: str, near: Storage | None) -> Storage | None:
    """The store at an address, or None where the address can only be a hub name."""
    if "://" in model:
        return open_storage(model)
    path = path_of(model)
    places = [path]
    if isinstance(near, FolderStorage) and not path.is_absolute():
        places += [parent / path for parent in near.root.resolve().parents]
    for place in places:
        if place.is_dir():
            return FolderStorage(place)
        if place.is_file():
            raise InputError(
                f"{place}: a model is a folder in diffusers' layout, not one file; convert it to that layout"
            )
    return None


def _checkpoint(store: Storage) -> Storage | None:
    """The checkpoint at `store`: itself, or the chosen one of a run's output; None where it is no run."""
    if store.exists(CHECKPOINT):
        if store.complete() is None:
            raise InputError(
                f"{store.url}: this checkpoint is not complete; use an earlier one, or the run's output"
            )
        return store
    if store.exists(CARD) or not store.exists(RUN_SPEC):
        return None
    chosen = chosen_checkpoint(store)
    if chosen is None:
        raise InputError(
            f"{store.url}: this run has no complete checkpoint yet; train it further with --resume"
        )
    return chosen


def _local_pipeline(store: Storage) -> Path:
    if not store.exists(CARD):
        raise InputError(_why_no_pipeline(store))
    check_layout(store.read, store.url)  # before the weights are fetched
    return store.root if isinstance(store, FolderStorage) else cached(store, _NEEDED)


def _why_no_pipeline(store: Storage) -> str:
    keys = store.list()
    if not keys:
        return f"{store.url}: no model here; give a pipeline folder, a run's output or a checkpoint"
    if any(key.endswith(_PICKLES) for key in keys) and not any(key.endswith(".safetensors") for key in keys):
        return (
            f"{store.url}: only pickled weights here, which may run code; convert them to safetensors in "
            "diffusers' layout"
        )
    return (
        f"{store.url}: no {CARD} here; give a pipeline folder in diffusers' layout, a run's output or a "
        "checkpoint"
    )


def cache_folder() -> Path:
    """Where remote pipelines are kept: `$MEDSD_CACHE`, else `medsd` below `$XDG_CACHE_HOME` or `~/.cache`."""
    if chosen := os.environ.get("MEDSD_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "medsd"


def cached(store: Storage, needed: re.Pattern[str]) -> Path:
    """A local copy of a remote model's files, made once for each state of them; appears whole or not at
    all.
    """
    keys = [key for key in store.list() if needed.fullmatch(key)]
    state = store.complete() or (store.etags() if isinstance(store, S3Storage) else {})
    state = {key: state.get(key) for key in keys}
    name = hashlib.sha256(json.dumps([store.url, state], sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_folder() / "models" / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder.parent))
    try:
        store.download_tree(part, keys)
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first with the same files
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _from_hub(
    model: str,
    near: Storage | None,
    patterns: list[str],
    *,
    check_card: bool,
    ignored: tuple[str, ...] = (),
) -> Path:
    """A local folder of a model of the hub; with `check_card` its layout is checked before its weights are
    fetched.
    """
    wanted = f" (named by {near.url})" if near else ""
    if not _HUB_NAME.fullmatch(model) or "--" in model or ".." in model:
        raise InputError(
            f"{model}: no such model{wanted}; give {SMALL}, a folder, an s3:// address or a hub name"
        )
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def refused(error: Exception) -> InputError:
        return InputError(
            f"{model}: no such folder{wanted}, and the hub did not give a model of this name "
            f"({type(error).__name__}); mend the path, or check the name and the network"
        )

    def read(name: str) -> bytes:
        try:
            return Path(hf_hub_download(model, name)).read_bytes()
        except LocalEntryNotFoundError as error:  # the hub does not answer, and no copy of it is here
            raise refused(error) from error
        except EntryNotFoundError as error:
            raise FileNotFoundError(name) from error

    try:
        if check_card:
            check_layout(read, model)
        left_out = ["*.non_ema.*", *ignored]
        return Path(snapshot_download(model, allow_patterns=patterns, ignore_patterns=left_out))
    except (EntryNotFoundError, OSError, ValueError) as error:  # of which all errors of the hub are
        raise refused(error) from error
