"""Latent Drifting (Yeganeh et al. 2025, CVPR, arXiv 2412.20651): one signed number δ, the same for every
channel, pixel and step, moves the mean of a diffusion model's noise from what it was pretrained with.

The paper's abstract and its project page say that δ shifts forward and reverse process in training and the
reverse one, p(z_{t-1} | z_t) = N(μ(z_t, t) + δ, Σ), at sampling, and that it may be used at sampling alone.
The paper's equations could not be read. Inferred are: ε' = ε + δ in z_t = a_t·z_0 + s_t·ε' (a_t = √ᾱ_t,
s_t = √(1 - ᾱ_t)), whether the U-Net's target holds ε' (`shifted`) or ε (`plain`), and where δ enters a
reverse step. z_T ~ N(δ, 1) in all of them.

`init_only`        nothing more; with the target `shifted` this samples the data's own distribution
`scaled_by_sigma`  what the U-Net says is made that of one with the target `shifted` before each step: δ more
                   of the noise, times s_t in the update; as exact with the target `plain`
`per_step`         δ is added to the latents after each step, as the formula says; the shift grows with the
                   number of steps, and is part of what δ is chosen by
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from medsd_ray.documents import json_object
from medsd_ray.errors import InputError
from medsd_ray.models.resolve import Resolved
from medsd_ray.runs.checkpoint_schema import SampledDrift
from medsd_ray.runs.checkpoints import describe_checkpoint
from medsd_ray.schemas import first_fault
from medsd_ray.spec.images import Sampling
from medsd_ray.spec.objective import Drift as DriftSpec

if TYPE_CHECKING:
    from torch import Tensor

SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
IN_CONFIG = "_medsd_drift"
"""The setting of an exported scheduler; diffusers keeps names that begin so without reading them."""


@dataclass(frozen=True)
class Drift:
    """What a model is sampled with unless it is told otherwise."""

    delta: float = 0.0
    where: str = "per_step"
    steps: int | None = None
    """Denoising steps with which delta was chosen; None where that is not known."""


NONE = Drift()


def drift_of(spec: DriftSpec) -> Drift:
    """What images of a run are sampled with."""
    return Drift(spec.delta, spec.where, spec.steps) if spec.delta else NONE


def recorded_drift(resolved: Resolved) -> Drift:
    """The drift of a model: of its last checkpoint that trained U-Net or text encoder, or what `export` wrote
    beside its noise schedule. Raises InputError where that is damaged.
    """
    for checkpoint in reversed(resolved.checkpoints):
        if (recorded := describe_checkpoint(checkpoint).get("drift")) is not None:
            return _drift(recorded)
    path = resolved.folder / SCHEDULER_CONFIG
    try:
        recorded: Any = json_object(path.read_bytes()).get(IN_CONFIG)
    except (FileNotFoundError, ValueError):  # which who loads it says in words of its own
        return NONE
    if recorded is None:
        return NONE
    if fault := first_fault(SampledDrift, recorded):
        raise InputError(f"{path}: {IN_CONFIG} is damaged ({fault}); copy the model anew")
    return _drift(recorded)


def _drift(recorded: dict[str, Any]) -> Drift:
    return Drift(recorded["delta"], recorded["where"], recorded.get("steps"))


def in_effect(sampling: Sampling, drift: Drift) -> Sampling:
    """The settings with the model's own drift where they name none; without drift, no `drift_where`."""
    delta = drift.delta if sampling.drift is None else sampling.drift
    where = (sampling.drift_where or drift.where) if delta else None
    return replace(sampling, drift=float(delta), drift_where=where)


def drift_notes(asked: Sampling, drift: Drift) -> list[str]:
    """What should be said of the settings that were asked for, of a model with this drift."""
    used = in_effect(asked, drift)
    if not used.drift:
        nothing = "drift_where acts on nothing: the model has no drift, and none is asked for"
        return [nothing] if asked.drift_where else []
    if used.drift_where == "per_step" and drift.delta and drift.steps not in (None, used.steps):
        return [
            f"drift {used.drift:g} is added at each of {used.steps} steps, but the model's was chosen with "
            f"{drift.steps}, which makes another shift in all; take {drift.steps} steps, or choose it anew"
        ]
    return []


def as_shifted(output: Tensor, prediction_type: str, a: float, delta: float) -> Tensor:
    """What a U-Net trained on the target `plain` says, as one trained on `shifted` would: δ more of epsilon,
    a_t·δ more of v = a_t·ε - s_t·z_0. `a` is a_t.
    """
    return output + (delta if prediction_type == "epsilon" else a * delta)
