"""What is trained, encoded and drawn in the benchmarks: drawn chest phantoms, and models in Stable
Diffusion's layout.

Weights of the large layouts are random: none can be had without a network, and speed does not depend on them.
All is made once a machine, in the benchmarks' cache.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from common import CACHE

LAYOUTS = ("small", "sd1", "sd2")


def model(layout: str) -> str:
    """The address of a model: `medsd-small`, or a folder of random weights in the layout of SD 1.x or SD 2
    base.
    """
    if layout == "small":
        return "medsd-small"
    folder = CACHE / "models" / layout
    if not (folder / "model_index.json").is_file():
        unfinished = folder.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        _save(layout, unfinished)
        unfinished.rename(folder)
    return str(folder)


def _save(layout: str, folder: Path) -> None:
    from medsd_ray.models.save import save_pipeline

    save_pipeline(components(layout), folder)


def components(layout: str, device: str = "cpu") -> Any:
    """All parts of a model, in memory: medsd-small, or random weights in another layout, made on `device`."""
    import torch
    from diffusers import DDPMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    from medsd_ray.base_model.architecture import build_tokenizer
    from medsd_ray.models.components import Components
    from medsd_ray.models.load import load_components

    if layout == "small":
        return load_components("medsd-small")
    # A tokenizer's ids of special tokens are annotated as anything: hence what the type checker is told to
    # ignore.
    wide = layout == "sd2"  # OpenCLIP ViT-H's text tower, less its last layer, in place of CLIP ViT-L's
    width, layers, heads = (1024, 23, 16) if wide else (768, 12, 12)
    tokenizer = build_tokenizer()
    tokenizer.model_max_length = 77
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=77,
        projection_dim=width,
        hidden_act="gelu" if wide else "quick_gelu",
        bos_token_id=tokenizer.bos_token_id,  # pyright: ignore[reportArgumentType]
        eos_token_id=tokenizer.eos_token_id,  # pyright: ignore[reportArgumentType]
        pad_token_id=tokenizer.pad_token_id,  # pyright: ignore[reportArgumentType]
    )
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    with torch.device(device):
        return Components(vae(), CLIPTextModel(text), tokenizer, unet(layout), scheduler)


def random_latents(folder: Path, parts: Any, size: int, count: int = 64) -> str:
    """A training split of random latents of `size` px and random embeddings, as encode would write it: speed
    does not depend on what they show.
    """
    import torch

    from medsd_ray.data.latents import to_bytes
    from medsd_ray.data.shards import Index, Shard, write_index
    from medsd_ray.storage import entry_of_bytes, open_storage

    store, side = open_storage(f"{folder}/latents/train"), size // 8
    width, tokens = parts.unet.config["cross_attention_dim"], parts.tokenizer.model_max_length
    shape = (count, parts.unet.config["in_channels"], side, side)
    tensors = {
        "mean": torch.randn(shape),
        "logvar": torch.full(shape, -4.0),
        "text_embeddings": torch.randn(count, tokens, width),
    }
    data = to_bytes(tensors, [str(index) for index in range(count)], ["a chest x-ray"] * count)
    store.write("shard-00000.safetensors", data)
    shard = Shard("shard-00000.safetensors", count, **entry_of_bytes(data))
    named = dict.fromkeys(("model", "fingerprint", "vae_fingerprint", "text_encoder_fingerprint"), "random")
    meta = named | {"scaling_factor": 0.18215, "empty_embedding": tensors["text_embeddings"][0].tolist()}
    write_index(store, Index("latent", "train", (shard,), meta))
    return f"{folder}/latents"


# diffusers' annotations say tuple[str] where tuples of any length are meant: hence what the type checker is
# told to ignore.


def unet(layout: str) -> Any:
    """A U-Net of random weights in the layout of SD 1.x (860 M parameters) or SD 2 base (866 M), on the
    device that is torch's default.
    """
    from diffusers import UNet2DConditionModel

    if layout == "small":
        from medsd_ray.models.load import load_components

        return load_components("medsd-small", only=("unet",)).unet
    wide = layout == "sd2"
    down, up = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    return UNet2DConditionModel(
        sample_size=64,
        in_channels=4,
        out_channels=4,
        block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=2,
        down_block_types=down,
        up_block_types=up,
        cross_attention_dim=1024 if wide else 768,
        attention_head_dim=(5, 10, 20, 20) if wide else 8,  # pyright: ignore[reportArgumentType]
        use_linear_projection=wide,
    )


def vae() -> Any:
    """A VAE of random weights in Stable Diffusion's layout, 84 M parameters."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),  # pyright: ignore[reportArgumentType]
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
    )


def shards(count: int, size: int, shard_size: str = "1MiB") -> str:
    """Image shards of `count` drawn phantoms, nearly all in `train`."""
    from medsd_ray.data.prepare import prepare
    from medsd_ray.data.sources.request import SourceRequest

    folder = CACHE / "shards" / f"{count}-{size}-{shard_size}"
    asked = SourceRequest(str(count), "phantom", size=size)
    prepare(asked, str(folder), shard_size=shard_size, splits="0.9,0.05,0.05")
    return str(folder)


def latents(images: str, layout: str, device: str) -> str:
    """Those images encoded by a layout's VAE and text encoder."""
    from medsd_ray.generation.encode import encode

    folder = CACHE / "latents" / f"{Path(images).name}-{layout}"
    encode(
        images, str(folder), model=model(layout), text_embeddings=True, batch_size=8, use_gpu=device == "cuda"
    )
    return str(folder)


def run(layout: str, data: str, output: str, **training) -> dict:
    """A spec of U-Net training alone, as plain values: full fine-tuning, frozen text encoder, no moving
    average.
    """
    settings = {
        "max_steps": 100,
        "global_batch_size": 32,
        "ema": None,
        "log_every": 10,
        "learning_rate": 1e-5,
    }
    return {
        "name": "bench",
        "model": model(layout),
        "data": {"train": data},
        "components": {"unet": "full"},
        "objective": {"snr_gamma": None, "conditioning_dropout": 0.0},
        "training": settings | training,
        "output": output,
    }


def join_group(device: str, folder: Path, rank: int = 0, world_size: int = 1) -> None:
    """torch.distributed of a few processes of this machine, which meet in a file in `folder`."""
    import torch.distributed as dist

    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "DS_ACCELERATOR": device,
    }
    store = dist.FileStore(str(folder / "store"), world_size)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo", store=store, rank=rank, world_size=world_size
    )
