"""Models of CLIP's layout, which put images and texts into one space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from medsd_ray.evaluation.networks.batches import BATCH, device, rgb
from medsd_ray.evaluation.networks.weights import load_encoder


def load_clip(folder: str | Path) -> tuple[Any, Any]:
    """A CLIP model and its processor. Raises InputError where `folder` is not one with safetensors
    weights.
    """
    from transformers import CLIPModel, CLIPProcessor

    return load_encoder(folder, CLIPModel, CLIPProcessor, owner="a CLIP model", what="a CLIP model")


def cosines(folder: str | Path, pixels: np.ndarray, texts: list[str]) -> np.ndarray:
    """(N,) cosine of each image, (N, H, W, C) uint8, with its text by a model of CLIP's layout. Raises
    InputError as `load_clip` does.
    """
    model, processor = load_clip(folder)
    values: list[float] = []
    with torch.inference_mode():
        for i in range(0, len(pixels), BATCH):
            batch = processor(
                text=texts[i : i + BATCH],
                images=rgb(pixels[i : i + BATCH]),
                return_tensors="pt",
                padding=True,
                truncation=True,
            )
            out = model(**batch.to(device()))
            values += functional.cosine_similarity(out.image_embeds, out.text_embeds).double().tolist()
    return np.array(values)
