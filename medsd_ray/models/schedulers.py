"""The noise schedule of a model, and samplers made for it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from medsd_ray.errors import InputError
from medsd_ray.models.drift import as_shifted

PREDICTION_TYPES = ("epsilon", "v_prediction")
"""What a U-Net may predict here."""


class DpmSolver(DPMSolverMultistepScheduler):
    """DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095) at exactly as many timesteps as it is asked for.

    diffusers takes them from `np.arange` with a step that is no whole number: 62 of the counts up to 1000 get
    one timestep more, which is -1.

    Steps are by `drift` and `drift_where`, see drift.py; the initial noise's mean is whose who draws it.
    """

    drift: float = 0.0
    drift_where: str | None = None

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        """Sets `num_inference_steps` timesteps, or those given. Raises InputError where the schedule has
        fewer.
        """
        if num_inference_steps is not None and timesteps is None:
            timesteps = trailing_timesteps(self.config["num_train_timesteps"], num_inference_steps).tolist()
        super().set_timesteps(device=device, mu=mu, timesteps=timesteps)

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Any = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """One step of the reverse process, with the drift that belongs into it."""
        if self.drift and self.drift_where == "scaled_by_sigma":
            a = float(self.alphas_cumprod[int(timestep)].sqrt())
            model_output = as_shifted(model_output, self.config["prediction_type"], a, self.drift)
        (after,) = super().step(
            model_output, timestep, sample, generator, variance_noise=variance_noise, return_dict=False
        )
        if self.drift and self.drift_where == "per_step":
            after = after + self.drift
        return SchedulerOutput(prev_sample=after) if return_dict else (after,)


class Ddim(DpmSolver):
    """DDIM (Song et al. 2021, arXiv 2010.02502) with eta 0, which is DPM-Solver++ of first order (Lu et al.
    2022, sec. 4.2).

    diffusers' DDIMScheduler steps to t - ⌊T/n⌋, which is the next timestep only where n divides T.
    """

    def __init__(self, **config: Any):
        super().__init__(solver_order=1, **config)


def trailing_timesteps(total: int, steps: int) -> np.ndarray:
    """`steps` timesteps (steps,) int64 of a schedule of `total`, falling and none below 0.

    The first is the last training step, so that what sampling starts from is what training saw there (Lin et
    al. 2024, arXiv 2305.08891, sec. 3.3, table 2: round(flip(arange(T, 0, -T/S))) - 1).

    Raises:
        InputError: The schedule has fewer timesteps.
    """
    if steps > total:
        raise InputError(f"steps is {steps}, but the model's noise schedule has {total}; choose fewer")
    # The cut: for some counts the division's rounding lets arange give one more, a hair above 0.
    return np.round(np.arange(total, 0, -total / steps)[:steps]).astype(np.int64) - 1


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
    chosen |= {"timestep_spacing": "trailing", "steps_offset": 1}
    if not issubclass(kind, DPMSolverMultistepScheduler):
        chosen["clip_sample"] = False  # latents are not bounded by 1
    return kind(**chosen)


def load_scheduler(path: Path) -> DDPMScheduler:
    """The noise schedule of a scheduler of any kind; settings that only sampling knows are left out.

    Raises:
        InputError: It is damaged, or its U-Net predicts what training and sampling here do not know.
    """
    config: Any = DDPMScheduler.load_config(path)
    if not isinstance(config, dict):  # a text or a list has no setting, which would all be the defaults
        raise InputError(f"{path}/{DDPMScheduler.config_name} is damaged; copy it anew")
    known = inspect.signature(DDPMScheduler.__init__).parameters
    kept: Any = {name: config[name] for name in known if name in config}
    if (predicted := kept.get("prediction_type", PREDICTION_TYPES[0])) not in PREDICTION_TYPES:
        raise InputError(
            f"{path}: prediction_type is {predicted!r}; only models that predict "
            f"{' or '.join(PREDICTION_TYPES)} can be used"
        )
    return DDPMScheduler(**kept | {"clip_sample": False})
