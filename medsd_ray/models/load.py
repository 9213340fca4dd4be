"""A model's components in memory, from any address that `resolve` knows. Weights come from safetensors, never
pickles.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from medsd_ray.errors import InputError
from medsd_ray.models import swapped_encoder
from medsd_ray.models.components import Components
from medsd_ray.models.conditions_folder import load_conditions
from medsd_ray.models.drift import recorded_drift
from medsd_ray.models.layout import PROJECTION
from medsd_ray.models.methods.registry import adaptation, recorded_settings
from medsd_ray.models.resolve import FOLDERS, check_bases, resolve
from medsd_ray.models.schedulers import load_scheduler
from medsd_ray.models.weights import load_module, quiet_libraries
from medsd_ray.runs.checkpoints import describe_checkpoint
from medsd_ray.spec.conditions import CONDITIONS
from medsd_ray.storage import Storage


def load_components(model: str, *, raw: bool = False, only: tuple[str, ...] | None = None) -> Components:
    """Loads a model, float32 on the CPU, in evaluation mode.

    Args:
        model: `medsd-small`, a pipeline folder, a run's output or checkpoint, `s3://` of those, or a hub
            name.
        raw: Of a checkpoint, takes the trained weights themselves, and not their moving averages (EMA). The
            checkpoints that it was trained from give their averages, as they did to its training.
        only: The components to load (`vae`, `text_encoder`, `tokenizer`, `unet`, `scheduler`); all where it
            is None.

    Returns:
        The components; those that were not asked for are None.

    Raises:
        InputError: There is no such model, or a part of it is missing, damaged or of another layout.
    """
    resolved = resolve(model)
    check_bases(resolved)
    loaded = _load_folder(resolved.folder, only or FOLDERS)
    for store in resolved.checkpoints:
        _merge_checkpoint(loaded, store, raw=raw and store is resolved.checkpoints[-1])
    loaded.drift = recorded_drift(resolved)
    return loaded


def _load_folder(folder: Path, only: tuple[str, ...]) -> Components:
    quiet_libraries()
    clip: Callable[[Path], Any] = lambda path: load_module(CLIPTextModel, path, "model", dtype=torch.float32)
    is_swapped = (folder / "text_encoder" / PROJECTION).is_file()
    load: dict[str, Callable[[Path], Any]] = {
        "vae": lambda path: load_module(
            AutoencoderKL, path, "diffusion_pytorch_model", torch_dtype=torch.float32
        ),
        "text_encoder": swapped_encoder.load if is_swapped else clip,
        "tokenizer": swapped_encoder.load_tokenizer if is_swapped else CLIPTokenizer.from_pretrained,
        "unet": lambda path: load_module(
            UNet2DConditionModel, path, "diffusion_pytorch_model", torch_dtype=torch.float32
        ),
        "scheduler": load_scheduler,
    }
    parts: dict[str, Any] = dict.fromkeys(FOLDERS)
    for name in only:
        path = folder / name
        if not path.is_dir():
            raise InputError(
                f"{folder}: there is no {name} folder in this pipeline; copy or convert the model whole"
            )
        try:
            parts[name] = load[name](path)
        except InputError:
            raise
        except Exception as error:  # whatever diffusers, transformers and safetensors raise on damaged files
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{path}: cannot be loaded, is it damaged? copy it anew ({type(error).__name__}: {reason})"
            ) from error
    if parts["unet"] is not None:
        parts[CONDITIONS] = load_conditions(folder, parts["unet"])
    return Components(**parts)


def _merge_checkpoint(components: Components, store: Storage, raw: bool) -> None:
    """Merges a checkpoint's trained weights into the model that it was trained from, and sets what the
    checkpoint says of its objective.
    """
    from medsd_ray.runs.checkpoint_reader import load_weights

    description = describe_checkpoint(store)
    for name, weights in load_weights(store, raw=raw).items():
        settings = recorded_settings(description, name)
        method = adaptation(name, settings)
        # New words are the tokenizer's too, and conditions are made by their checkpoint.
        needs = {"text_encoder": ("text_encoder", "tokenizer"), CONDITIONS: ("unet",)}.get(name, (name,))
        if all(getattr(components, part) is None for part in needs):
            continue
        recorded = description.get("fingerprints", {}).get(name)
        if method.source_fingerprint and recorded not in (None, method.source_fingerprint(settings)):
            raise InputError(
                f"{store.url}: what its {name} was trained with has changed since; bring back the earlier "
                "files"
            )
        try:
            method.merge(components, name, settings, weights)
        except RuntimeError as error:  # shapes differ
            raise InputError(
                f"{store.url}: its {name} does not fit {description['model']}, which it names as its base"
            ) from error
        except KeyError as error:
            raise InputError(
                f"{store.url}: its {name} has weights that its base model lacks, such as {error.args[0]}"
            ) from error
    if components.scheduler is not None and (prediction_type := description.get("prediction_type")):
        components.scheduler.register_to_config(prediction_type=prediction_type)
    if components.unet is not None and (sample_size := description.get("sample_size")):
        components.sample_size = tuple(sample_size)
    if components.vae is not None and (scaling_factor := description.get("scaling_factor")):
        components.vae.register_to_config(scaling_factor=scaling_factor)
