"""A model of Stable Diffusion's layout that loads in a blink, and checkpoints over it, for tests."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from medsd_ray.base_model.architecture import build_tokenizer
from medsd_ray.models.components import Components
from medsd_ray.storage import Storage


def tiny_components(
    seed: int = 0, prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
) -> Components:
    """Other sizes than medsd-small's in every respect: 4 latent channels, a VAE of factor 2, 16x16 pixels."""
    # diffusers' annotations say tuple[str] where tuples of any length are meant, and a tokenizer's ids of
    # special tokens are annotated as anything: hence what the type checker is told to ignore.
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    return Components(
        vae=AutoencoderKL(
            latent_channels=4,
            sample_size=16,
            down_block_types=("DownEncoderBlock2D",) * 2,  # pyright: ignore[reportArgumentType]
            up_block_types=("UpDecoderBlock2D",) * 2,  # pyright: ignore[reportArgumentType]
            block_out_channels=(8, 8),  # pyright: ignore[reportArgumentType]
            norm_num_groups=4,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=32,
                bos_token_id=tokenizer.bos_token_id,  # pyright: ignore[reportArgumentType]
                eos_token_id=tokenizer.eos_token_id,  # pyright: ignore[reportArgumentType]
            )
        ),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(8, 16),
            layers_per_block=1,
            attention_head_dim=2,
            cross_attention_dim=16,
            norm_num_groups=4,
        ),
        scheduler=DDPMScheduler(
            beta_schedule="scaled_linear", prediction_type=prediction_type, clip_sample=False
        ),
    )


def write_checkpoint(
    store: Storage,
    model: str,
    methods: dict[str, str],
    weight: dict[str, Tensor],
    ema: dict[str, Tensor],
    **more: Any,
) -> None:
    """A complete checkpoint of two workers, each with half of every parameter; names are like
    `unet.conv_in.bias`.
    """
    fragments: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(2):
            tensors = {}
            for name, value in weight.items():
                half = value.numel() // 2
                start, end = ((0, half), (half, value.numel()))[rank]
                pieces = fragments.setdefault(name, {"shape": list(value.shape), "pieces": []})["pieces"]
                pieces.append([start, end - start, rank])
                for kind, values in (("weight", weight), ("ema", ema)):
                    tensors[f"{kind}:{name}@{start}"] = values[name].flatten()[start:end].clone()
            save_file(tensors, Path(folder) / f"rank-{rank:05d}.safetensors")
        description = {
            "format": "medsd-checkpoint/1",
            "step": 20,
            "position": 80,
            "model": model,
            "world_size": 2,
            "zero_stage": 2,
            "components": methods,
            "prediction_type": "epsilon",
            "fragments": fragments,
            "ema": True,
        }
        Path(folder, "checkpoint.json").write_text(json.dumps(description | more))
        store.upload_tree(Path(folder))


def shifted(components: Components, name: str, by: float) -> dict[str, Tensor]:
    """All parameters of one component, each value moved by `by`."""
    module = components.modules()[name]
    return {f"{name}.{key}": value.detach() + by for key, value in module.named_parameters()}
