"""Small vision models of transformers with random weights, saved as folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

TOKENS: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTModel", TOKENS),
    "dinov2": ("Dinov2Model", TOKENS),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", TOKENS | {"num_register_tokens": 4}),
    "clip_vision_model": ("CLIPVisionModel", TOKENS),
    "siglip_vision_model": ("SiglipVisionModel", TOKENS),
    "swin": ("SwinModel", {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2,
                           "image_size": 32, "patch_size": 4, "drop_path_rate": 0.0}),
    "convnext": ("ConvNextModel", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}),
    "resnet": ("ResNetModel", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
                               "layer_type": "basic"}),
}  # fmt: skip


def save(kind: str, folder: Path, seed: int = 0, processor: dict[str, Any] | None = None) -> Any:
    """Writes a model of a kind, and what a processor says of its images; gives the model."""
    import transformers
    from transformers import AutoConfig

    name, settings = KINDS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, name)(AutoConfig.for_model(kind, **settings))
        for tensor_name, tensor in model.state_dict().items():
            if tensor_name.endswith(("running_mean", "running_var")):  # as trained ones, they are not 0 and 1
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    model.save_pretrained(folder)
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model.eval()
