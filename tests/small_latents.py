"""Latent shards of random numbers that look like a model's own, for tests of training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from medsd_ray.data.latents import LatentNote, to_bytes
from medsd_ray.data.shards import Index, Shard, write_index
from medsd_ray.data.split_writer import SplitCounts
from medsd_ray.models.components import Components
from medsd_ray.models.resolve import model_fingerprint
from medsd_ray.models.tokens import token_ids
from medsd_ray.storage import open_storage

CAPTIONS = (
    "large left pleural effusion",
    "no acute cardiopulmonary abnormality",
    "small right pleural effusion",
)


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
    captions: tuple[str, ...] = CAPTIONS,
    notes: Sequence[LatentNote] | None = None,
) -> None:
    """A finished split in two shards, as encode writes it with the components saved at `model`. `value`
    shifts the means. With `notes`, one for each sample, the index counts labels and masks.
    """
    store = open_storage(f"{url}/{split}")
    generator = torch.Generator().manual_seed(len(split))
    shape = (components.unet.config["in_channels"], *[components.unet.config["sample_size"]] * 2)

    def embed(captions: list[str]) -> torch.Tensor:
        return components.text_encoder(token_ids(components.tokenizer, captions))[0]

    shards = []
    for number in range(2):
        count = samples // 2
        given = None if notes is None else notes[number * count : (number + 1) * count]
        texts = [captions[i % len(captions)] for i in range(count)]
        tensors = {
            "mean": torch.randn(count, *shape, generator=generator) + value,
            "logvar": torch.full((count, *shape), -4.0),
        }
        if embeddings:
            tensors["text_embeddings"] = embed(texts)
        data = to_bytes(tensors, [f"{split}-{number}-{i}" for i in range(count)], texts, given)
        name = f"shard-{number:05d}.safetensors"
        store.write(name, data)
        shards.append(Shard(name, count, len(data), hashlib.sha256(data).hexdigest()))
    meta = {
        "model": model,
        "fingerprint": model_fingerprint(model),
        "vae_fingerprint": model_fingerprint(model, only=("vae",)),
        "text_encoder_fingerprint": model_fingerprint(model, only=("text_encoder",)) if embeddings else None,
        "scaling_factor": 0.5,
        "empty_embedding": embed([""])[0].tolist() if embeddings else None,
    }
    if notes is not None:
        counts = SplitCounts()
        for note in notes:
            counts.add({"patient": "p", "labels": note.labels, "masks": list(note.masks), "warnings": []})
        meta |= {name: counts.meta()[name] for name in ("labels", "masks")}
    write_index(store, Index("latent", split, tuple(shards), meta))
