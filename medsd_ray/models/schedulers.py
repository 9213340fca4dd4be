"""The noise schedule of a model, and samplers made for it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler, DPMSolverMultistepScheduler


def sampling_scheduler(noise: DDPMScheduler, kind: type) -> Any:
    """A sampler of class `kind` for the noise schedule and prediction type of `noise`."""
    schedule = (
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "prediction_type",
        "rescale_betas_zero_snr",
    )
    chosen = {name: noise.config[name] for name in schedule}
    # Trailing steps begin at the last training step, so that what sampling starts from is what training saw
    # there (Lin et al. 2024, arXiv 2305.08891, sec. 3.3).
    chosen |= {
        "rescale_betas_zero_snr": noise.config["rescale_betas_zero_snr"],
        "timestep_spacing": "trailing",
        "steps_offset": 1,
    }
    if kind is not DPMSolverMultistepScheduler:
        chosen["clip_sample"] = False  # latents are not bounded by 1
    return kind(**chosen)


def load_scheduler(path: Path) -> DDPMScheduler:
    """The noise schedule of a scheduler of any kind; settings that only sampling knows are left out."""
    config: Any = DDPMScheduler.load_config(path)
    known = inspect.signature(DDPMScheduler.__init__).parameters
    kept: Any = {name: config[name] for name in known if name in config}
    return DDPMScheduler(**kept | {"clip_sample": False})
