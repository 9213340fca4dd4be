"""Stable Diffusion's parts in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from medsd_ray.errors import InputError
from medsd_ray.models.compilation import compile_module
from medsd_ray.models.conditions import ConditionModule
from medsd_ray.models.drift import NONE, Drift
from medsd_ray.models.inference import Inference
from medsd_ray.models.precision import DTYPES
from medsd_ray.models.swapped_encoder import SwappedEncoder
from medsd_ray.spec.components import COMPONENTS
from medsd_ray.spec.conditions import CONDITIONS


@dataclass
class Components:
    """Stable Diffusion's parts, float32 on the CPU. `scheduler` is the noise schedule that training and
    encoding use; `tokenizer` makes captions into what `text_encoder` reads, `model_max_length` tokens.
    """

    vae: AutoencoderKL
    text_encoder: CLIPTextModel | SwappedEncoder
    tokenizer: CLIPTokenizer  # a swapped encoder has its own kind
    unet: UNet2DConditionModel
    scheduler: DDPMScheduler
    drift: Drift = NONE
    """What images are sampled with unless they are asked for otherwise."""
    conditions: ConditionModule | None = None
    """What brings conditions beside the prompt to the U-Net; None where the model has none."""

    def modules(self) -> dict[str, nn.Module]:
        """The parts that have weights and were loaded, by name."""
        return {
            name: module for name in (*COMPONENTS, CONDITIONS) if (module := getattr(self, name)) is not None
        }

    @property
    def sample_size(self) -> tuple[int, int]:
        """Height and width of the latents that the U-Net makes."""
        size = self.unet.config["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return height, width

    @sample_size.setter
    def sample_size(self, size: tuple[int, int]) -> None:
        # One number for a square, as diffusers' models have it.
        self.unet.register_to_config(sample_size=size[0] if size[0] == size[1] else list(size))

    def for_inference(self, how: Inference) -> None:
        """Moves all parts to this process's GPU if asked, their weights to a precision, and those of
        convolutions to the memory format in which they are fastest; compiles U-Net and VAE if asked. Not for
        weights in training, which an optimizer holds as they lie. May be called again with the same `how`.
        Raises InputError where there is no GPU.
        """
        if how.use_gpu and not torch.cuda.is_available():
            raise InputError("no GPU on this machine; leave --use-gpu out")
        device, dtype = "cuda" if how.use_gpu else None, DTYPES[how.precision]
        for name, module in self.modules().items():
            module.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
            if how.compile and name in ("vae", "unet"):  # the others take no time beside them
                compile_module(module, whole=how.use_gpu)
