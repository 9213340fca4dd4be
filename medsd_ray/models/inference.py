"""How a model computes where it is not trained: device, number format, torch.compile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from medsd_ray.errors import InputError
from medsd_ray.spec.training import Precision

PRECISIONS = get_args(Precision)


@dataclass(frozen=True)
class Inference:
    """Of one output, whose images or latents all follow from it by the last digit."""

    use_gpu: bool = False
    precision: str = "fp32"
    """fp32, bf16 or fp16: of weights and activations."""
    compile: bool = False
    """Whether U-Net and VAE are compiled, which takes a minute or two and then saves time on every image."""


def inference_settings(
    use_gpu: bool, precision: str | None, compile: bool | None, *, images: int, compile_from: int
) -> Inference:
    """What is asked for; where it is left to medsd, bf16 on a GPU and fp32 on a CPU, compiled on a GPU where
    at least `compile_from` of the output's `images` pay for it.

    By the output's images, not by those of a worker: another number of workers must change no image.

    Raises InputError for another precision.
    """
    if precision is None or precision == "auto":
        precision = "bf16" if use_gpu else "fp32"
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}; choose {', '.join(PRECISIONS)} or auto")
    if compile is None:
        compile = use_gpu and images >= compile_from
    return Inference(use_gpu, precision, compile)
