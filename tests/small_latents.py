"""Latent shards of random numbers that look like a model's own, for tests of training."""

from __future__ import annotations

import hashlib

import torch

from medsd_ray.data.latents import to_bytes
from medsd_ray.data.shards import Index, Shard, write_index
from medsd_ray.models.load import Components, model_fingerprint
from medsd_ray.storage import open_storage

CAPTIONS = ("large left pleural effusion", "no acute cardiopulmonary abnormality", "small right pleural effusion")


@torch.no_grad()
def write_latents(
    url: str,
    components: Components,
    model: str,
    *,
    split: str = "train",
    samples: int = 48,
    embeddings: bool = False,
    value: float = 0.0,
) -> None:
    """A finished split in two shards, as encode writes it with the components saved at `model`. `value` shifts the means."""
    store = open_storage(f"{url}/{split}")
    generator = torch.Generator().manual_seed(len(split))
    shape = (components.unet.config["in_channels"], *[components.unet.config["sample_size"]] * 2)
    tokenizer = components.tokenizer

    def ids(captions: list[str]) -> torch.Tensor:
        options = {"padding": "max_length", "truncation": True, "max_length": tokenizer.model_max_length}
        return tokenizer(captions, return_tensors="pt", **options).input_ids

    shards = []
    for number in range(2):
        count = samples // 2
        tokens = ids([CAPTIONS[i % len(CAPTIONS)] for i in range(count)])
        tensors = {
            "mean": torch.randn(count, *shape, generator=generator) + value,
            "logvar": torch.full((count, *shape), -4.0),
            "input_ids": tokens.to(torch.int32),
        }
        if embeddings:
            tensors["text_embeddings"] = components.text_encoder(tokens)[0]
        data = to_bytes(tensors, [f"{split}-{number}-{i}" for i in range(count)])
        name = f"shard-{number:05d}.safetensors"
        store.write(name, data)
        shards.append(Shard(name, count, len(data), hashlib.sha256(data).hexdigest()))
    empty = ids([""])
    meta = {
        "model": model,
        "fingerprint": model_fingerprint(model),
        "vae_fingerprint": model_fingerprint(model, only=("vae",)),
        "text_encoder_fingerprint": model_fingerprint(model, only=("text_encoder",)) if embeddings else None,
        "scaling_factor": 0.5,
        "empty_ids": empty[0].tolist(),
        "empty_embedding": components.text_encoder(empty)[0][0].tolist() if embeddings else None,
    }
    write_index(store, Index("latent", split, tuple(shards), meta))
