"""A model's components as a pipeline folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from medsd_ray.addresses import shown
from medsd_ray.documents import json_object
from medsd_ray.models import swapped_encoder
from medsd_ray.models.components import Components
from medsd_ray.models.conditions_folder import save_conditions, widened
from medsd_ray.models.drift import IN_CONFIG
from medsd_ray.models.schedulers import sampling_scheduler
from medsd_ray.models.swapped_encoder import SwappedEncoder
from medsd_ray.models.weights import quiet_libraries


def save_pipeline(components: Components, folder: Path) -> None:
    """Writes a plain StableDiffusionPipeline folder (safetensors) whose scheduler samples with DPM-Solver++,
    and a drift beside its schedule.

    One with a swapped text encoder has it beside the pipeline, see swapped_encoder.py; one with conditions
    has what its U-Net is given, see conditions_folder.py.
    """
    folder = Path(folder)
    quiet_libraries()
    scheduler = sampling_scheduler(components.scheduler, DPMSolverMultistepScheduler)
    if components.drift.delta:
        scheduler.register_to_config(**{IN_CONFIG: asdict(components.drift)})
    is_swapped = isinstance(components.text_encoder, SwappedEncoder)
    conditions = components.conditions
    StableDiffusionPipeline(
        vae=components.vae,
        text_encoder=None if is_swapped else components.text_encoder,  # type: ignore[arg-type]
        tokenizer=None if is_swapped else components.tokenizer,  # type: ignore[arg-type]
        unet=components.unet if conditions is None else widened(components.unet, conditions),
        scheduler=scheduler,
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
    if conditions is not None:
        save_conditions(conditions, folder)
    if isinstance(components.text_encoder, SwappedEncoder):
        swapped_encoder.save(components.text_encoder, components.tokenizer, folder)
        return without_paths(folder)
    # transformers 5 reads both names, transformers 4 only those of Stable Diffusion's own files.
    text_encoder = folder / "text_encoder" / "model.safetensors"
    weights = {
        f"text_model.{name.removeprefix('text_model.')}": value
        for name, value in load_file(text_encoder).items()
    }
    save_file(weights, text_encoder, metadata={"format": "pt"})
    without_paths(folder)


def without_paths(folder: Path) -> None:
    """Shortens the absolute paths that diffusers and transformers write into their settings, such as the
    folder that a model was loaded from (`_name_or_path`).
    """
    for path in (*folder.glob("*.json"), *folder.glob("*/*config.json")):
        value = json_object(path.read_bytes())
        if (again := _shortened(value)) != value:
            path.write_text(json.dumps(again, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shortened(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shortened(inner) for inner in value]
    return shown(value) if isinstance(value, str) and "/" in value[1:] else value
