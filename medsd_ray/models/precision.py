"""The number formats that models compute in."""

from __future__ import annotations

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Of weights, gradients and activations, by the name that a user writes."""
