"""A model's components as a pipeline folder."""

from __future__ import annotations

from pathlib import Path

from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from medsd_ray.models import swapped_encoder
from medsd_ray.models.components import Components
from medsd_ray.models.schedulers import sampling_scheduler
from medsd_ray.models.swapped_encoder import SwappedEncoder
from medsd_ray.models.weights import quiet_libraries


def save_pipeline(components: Components, folder: Path) -> None:
    """Writes a plain StableDiffusionPipeline folder (safetensors) whose scheduler samples with DPM-Solver++.

    One with a swapped text encoder has it beside the pipeline, see swapped_encoder.py.
    """
    folder = Path(folder)
    quiet_libraries()
    is_swapped = isinstance(components.text_encoder, SwappedEncoder)
    StableDiffusionPipeline(
        vae=components.vae,
        text_encoder=None if is_swapped else components.text_encoder,  # type: ignore[arg-type]
        tokenizer=None if is_swapped else components.tokenizer,  # type: ignore[arg-type]
        unet=components.unet,
        scheduler=sampling_scheduler(components.scheduler, DPMSolverMultistepScheduler),
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
    if isinstance(components.text_encoder, SwappedEncoder):
        return swapped_encoder.save(components.text_encoder, components.tokenizer, folder)
    # transformers 5 reads both names, transformers 4 only those of Stable Diffusion's own files.
    text_encoder = folder / "text_encoder" / "model.safetensors"
    weights = {
        f"text_model.{name.removeprefix('text_model.')}": value
        for name, value in load_file(text_encoder).items()
    }
    save_file(weights, text_encoder, metadata={"format": "pt"})
