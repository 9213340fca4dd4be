"""The number formats that models compute in."""

from __future__ import annotations

import torch

from medsd_ray.errors import InputError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Of weights, gradients and activations, by the name that a user writes."""


def inference_precision(wanted: str | None, use_gpu: bool) -> str:
    """The precision in which images are encoded and made: what is `wanted`, else bf16 on a GPU and fp32 on a
    CPU.

    Raises InputError for another word.
    """
    if wanted is None or wanted == "auto":
        return "bf16" if use_gpu else "fp32"
    if wanted not in DTYPES:
        raise InputError(f"precision is {wanted!r}; choose {', '.join(DTYPES)} or auto")
    return wanted
