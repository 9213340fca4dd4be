"""The peer of train_step.py: text-to-image training as diffusers' users run it, with accelerate.

It does, call by call, what a step of diffusers' examples/text_to_image/train_text_to_image.py does with its
defaults: images decoded and transformed by the data loader in the training process, VAE and text encoder in
the loop, the loss gathered and read on the host each step, the norm clipped, torch's AdamW, and the progress
bar's and the tracker's figures each step. Left out is what its users may leave out: gradient checkpointing,
which would slow it, and its EMA. Plain files and a list of captions stand in for the `datasets` library,
which costs more.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from diffusers.optimization import get_scheduler
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from tqdm.auto import tqdm

from medsd_ray.data.latents import LatentReader
from medsd_ray.data.shards import iter_samples, open_split
from medsd_ray.models.tokens import token_ids
from medsd_ray.storage import FolderStorage

STEPS = 100_000


class Images(Dataset):
    """PNG files with captions, as the `imagefolder` loader and the example's transforms give them."""

    def __init__(self, folder: Path, tokenizer: Any, size: int):
        self.captions = json.loads((folder / "captions.json").read_text())
        self.paths, self.tokenizer = [folder / name for name in self.captions], tokenizer
        self.transform = transforms.Compose(
            [
                transforms.Resize(size, interpolation=transforms.InterpolationMode.LANCZOS),
                transforms.RandomCrop(size),
                transforms.Lambda(lambda image: image),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        path = self.paths[index]
        pixels: Any = self.transform(Image.open(path).convert("RGB"))  # a tensor, since ToTensor
        return {"pixel_values": pixels, "input_ids": token_ids(self.tokenizer, [self.captions[path.name]])[0]}


class Latents(Dataset):
    """The same with VAE moments and text embeddings computed before, all in memory."""

    def __init__(self, url: str):
        store, index = open_split(url, "train")
        assert isinstance(store, FolderStorage)
        reader = LatentReader()
        self.rows = [
            reader.row(store.root / shard.name, row) for shard in index.shards for row in range(shard.samples)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.rows[index]


def write_images(shards: str, folder: Path) -> None:
    """The training split's images as PNG files with a list of captions."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = {}
    for number, sample in enumerate(iter_samples(shards, "train")):
        assert sample.image is not None
        captions[f"{number:05d}.png"] = sample.caption
        Image.fromarray(sample.image).save(folder / f"{number:05d}.png")
    (folder / "captions.json").write_text(json.dumps(captions))


class Loop:
    """The loop, a number of steps at a time."""

    def __init__(
        self,
        parts: Any,
        images: Path,
        latents: str | None,
        size: int,
        batch: int,
        precision: str,
        device: str,
    ):
        log = ProjectConfiguration(project_dir=str(images), logging_dir=str(images / "logs"))
        self.accelerator = Accelerator(
            mixed_precision=precision, cpu=device == "cpu", log_with="tensorboard", project_config=log
        )
        self.accelerator.init_trackers("bench")
        self.noise_scheduler, self.precomputed, self.batch = parts.scheduler, latents is not None, batch
        self.vae, self.text_encoder = (
            parts.vae.requires_grad_(False),
            parts.text_encoder.requires_grad_(False),
        )
        dataset = Latents(latents) if latents else Images(images, parts.tokenizer, size)
        loader = DataLoader(dataset, shuffle=True, batch_size=batch, num_workers=0, drop_last=True)
        optimizer = torch.optim.AdamW(
            parts.unet.train().parameters(), lr=1e-5, betas=(0.9, 0.999), weight_decay=1e-2
        )
        schedule = get_scheduler(
            "constant", optimizer=optimizer, num_warmup_steps=0, num_training_steps=STEPS
        )
        prepared = self.accelerator.prepare(parts.unet, optimizer, loader, schedule)
        self.unet, self.optimizer, self.loader, self.schedule = prepared
        self.dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
        for frozen in (self.vae, self.text_encoder):
            frozen.to(self.accelerator.device, dtype=self.dtype)
        self.bar = tqdm(range(STEPS), desc="Steps")
        self.done, self._batches = 0, iter(self.loader)

    def _next(self) -> dict[str, torch.Tensor]:
        try:
            return next(self._batches)
        except StopIteration:
            self._batches = iter(self.loader)
            return next(self._batches)

    def _inputs(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        if self.precomputed:
            std = (0.5 * batch["logvar"].clamp(-30, 20)).exp()
            latents = batch["mean"] + std * torch.randn_like(std)
            return latents * self.vae.config["scaling_factor"], batch["text_embeddings"]
        encoded: Any = self.vae.encode(batch["pixel_values"].to(self.dtype))
        latents = encoded.latent_dist.sample() * self.vae.config["scaling_factor"]
        return latents, self.text_encoder(batch["input_ids"])[0]

    def step(self) -> None:
        with self.accelerator.accumulate(self.unet):
            latents, condition = self._inputs(self._next())
            noise = torch.randn_like(latents)
            schedule: Any = self.noise_scheduler
            timesteps = torch.randint(
                0, schedule.config["num_train_timesteps"], (len(latents),), device=latents.device
            ).long()
            noisy = schedule.add_noise(latents, noise, timesteps)
            epsilon = schedule.config["prediction_type"] == "epsilon"
            wanted = noise if epsilon else schedule.get_velocity(latents, noise, timesteps)
            prediction = self.unet(noisy, timesteps, condition, return_dict=False)[0]
            loss = F.mse_loss(prediction.float(), wanted.float(), reduction="mean")
            gathered: Any = self.accelerator.gather(loss.repeat(self.batch))
            average = gathered.mean()
            train_loss = average.item()
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.unet.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
        if self.accelerator.sync_gradients:
            self.bar.update(1)
            self.done += 1
            self.accelerator.log({"train_loss": train_loss}, step=self.done)
        self.bar.set_postfix(step_loss=loss.detach().item(), lr=self.schedule.get_last_lr()[0])
