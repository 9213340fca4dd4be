"""What encodes shards of images: in this process, or in a Ray worker that it travels to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medsd_ray.data.latents import LatentNote, to_bytes
from medsd_ray.data.shards import FORMAT, Sample, Shard, read_shard
from medsd_ray.errors import InputError
from medsd_ray.generation.encode_tasks import Task
from medsd_ray.models.components import Components
from medsd_ray.models.inference import Inference
from medsd_ray.models.pixels import to_unit_range
from medsd_ray.models.tokens import long_captions, token_ids, tokenizer_fingerprint
from medsd_ray.storage import Storage, entry_of_bytes


@dataclass
class Encoder:
    """Encodes one shard at a time; travels to the Ray workers."""

    components: Components
    text_embeddings: bool
    batch_size: int
    how: Inference
    sources: dict[str, Storage]
    out: Storage

    def describe(self) -> dict:
        """What the index says of the latents: the VAE's scaling factor, the empty caption's embedding."""
        return {
            "scaling_factor": self.components.vae.config["scaling_factor"],
            "text_embeddings": self.text_embeddings,
            "precision": self.how.precision,
            "compile": self.how.compile,
            "empty_embedding": self._embed([""])[0].tolist() if self.text_embeddings else None,
            "tokenizer_fingerprint": tokenizer_fingerprint(self.components.tokenizer),
        }

    def run(self, task: Task) -> int | InputError:
        """Writes a latent shard and a note of it. Returns how many samples it has, or what is wrong with its
        source.
        """
        self.components.for_inference(self.how)
        try:
            samples = list(read_shard(self.sources[task.split], task.shard))
        except InputError as error:
            return error
        batches = [samples[at : at + self.batch_size] for at in range(0, len(samples), self.batch_size)]
        parts = [self._encode(batch) for batch in batches]
        tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        notes = [LatentNote(sample.labels, sample.domain, sample.masks) for sample in samples]
        texts = [sample.caption for sample in samples]
        data = to_bytes(tensors, [sample.key for sample in samples], texts, notes)
        name = f"shard-{task.number:05d}.safetensors"
        store = self.out.child(task.split)
        store.write(name, data)
        shard = Shard(name, len(samples), **entry_of_bytes(data))
        captions = long_captions(self.components.tokenizer, texts)
        note = {"source": task.shard.sha256, "shard": shard.entry(), "captions": asdict(captions)}
        note |= {"format": FORMAT}
        store.write_json(task.note, note)
        return len(samples)

    @torch.inference_mode()
    def _encode(self, samples: list[Sample]) -> dict[str, Tensor]:
        vae: Any = self.components.vae  # diffusers annotates encode's result as a tuple
        # Compiled code is of one shape: the last batch of a shard is filled up.
        filled = samples + samples[:1] * (self.batch_size - len(samples)) if self.how.compile else samples
        posterior = vae.encode(_pixels(filled).to(vae.device, vae.dtype)).latent_dist
        tensors = {
            name: getattr(posterior, name)[: len(samples)].float().cpu() for name in ("mean", "logvar")
        }
        if self.text_embeddings:
            tensors["text_embeddings"] = self._embed([sample.caption for sample in samples])
        return tensors

    @torch.inference_mode()
    def _embed(self, captions: list[str]) -> Tensor:
        """(n, tokens, width) of n captions, each different one encoded once: short reports are often the
        same.
        """
        encoder = self.components.text_encoder
        input_ids, caption = torch.unique(
            token_ids(self.components.tokenizer, captions), dim=0, return_inverse=True
        )
        return encoder(input_ids.to(encoder.device))[0].float().cpu()[caption]


def _pixels(samples: list[Sample]) -> Tensor:
    """(n, 3, height, width) float32 in [-1, 1], grayscale repeated."""
    images = [np.asarray(sample.image) for sample in samples]
    arrays = [image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2) for image in images]
    return to_unit_range(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2))
