"""Sections of task runs with networks that learn in seconds."""

from __future__ import annotations

from typing import Any

DENSE = {
    "library": "monai",
    "name": "DenseNet",
    "arguments": {"block_config": [2, 2], "growth_rate": 4, "init_features": 8},
}
UNET = {"library": "monai", "name": "UNet", "arguments": {"channels": [8, 16], "strides": [2]}}
TASKS: dict[str, dict[str, Any]] = {
    "classifier": {"network": DENSE, "label": "extent"},
    "segmenter": {"network": UNET, "mask": "effusion", "missing": "background"},
}
