"""The precision in which images are made is in effect, and changes them by rounding alone."""

from __future__ import annotations

import numpy as np
import torch
from tiny import tiny_components

from medsd_ray.generation.sampling import sample_images
from medsd_ray.spec.images import Sampling


def test_images_in_half_precision_are_those_of_single_precision_but_for_rounding():
    made = {}
    for precision in ("fp32", "bf16"):
        components = tiny_components(0)
        components.for_inference(False, precision)
        made[precision] = sample_images(
            components, ["effusion"] * 2, [0, 1], seed=3, sampling=Sampling(steps=4)
        )
    assert {p.dtype for p in components.unet.parameters()} == {torch.bfloat16}
    difference = np.abs(made["fp32"].astype(int) - made["bf16"].astype(int))
    assert difference.max() > 0 and difference.mean() < 4
