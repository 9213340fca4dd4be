"""Models of other layouts than Stable Diffusion's: the JSON files of their folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PARTS = {
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "unet": "UNet2DConditionModel",
    "scheduler": "PNDMScheduler",
}
SDXL = PARTS | {"text_encoder_2": "CLIPTextModelWithProjection"}
FLUX = {"vae": "AutoencoderKL", "text_encoder": "CLIPTextModel", "transformer": "FluxTransformer2DModel"}


def draw_pipeline(folder: Path, kind: str, parts: dict[str, str], **unet: Any) -> Path:
    """The JSON files of a diffusers folder, as one without its weights has them."""
    card = {"_class_name": kind} | {name: ["diffusers", part] for name, part in parts.items()}
    for name, part in parts.items():
        (folder / name).mkdir(parents=True)
        config = {"_class_name": part} | (unet if name == "unet" else {"latent_channels": 4})
        (folder / name / "config.json").write_text(json.dumps(config))
    (folder / "model_index.json").write_text(json.dumps(card))
    return folder
