"""How images are generated: the one place that declares each setting, with its default, bounds and meaning.

The verbs' options (`medsd generate`, `medsd insert`), a FineTune's `report` and a study's `evaluation` take
their fields from here, so that none of them lets through what another refuses. Importing this module does not
import pydantic, as `medsd --help` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from medsd_ray.errors import InputError

GuidanceKind = Literal["joint", "independent"]
SchedulerName = Literal["dpm-solver++", "ddim"]
DriftWhere = Literal["per_step", "init_only", "scaled_by_sigma"]


@dataclass(frozen=True)
class Setting:
    """One setting. `description` starts with a small letter, as descriptions of a CRD's fields do."""

    name: str
    default: Any
    description: str
    lowest: float | None = None
    highest: float | None = None
    lowest_means: str = ""
    """What the lowest value stands for, where that is a case of its own."""
    choices: tuple[str, ...] = ()

    @property
    def help(self) -> str:
        """The description as an option of a verb shows it."""
        return self.description[:1].upper() + self.description[1:]

    def field(self, **changes: Any) -> Any:
        """The setting as a field of a pydantic model, with some of it changed, such as `default`."""
        from pydantic import Field

        setting = replace(self, **changes)
        return Field(
            default=setting.default, ge=setting.lowest, le=setting.highest, description=setting.description
        )

    def check(self, value: Any) -> None:
        """Raises InputError where the value is out of bounds or not among the choices."""
        if self.choices and value not in self.choices:
            raise InputError(f"{self.name} {value!r} is not known; choose {' or '.join(self.choices)}")
        if self.lowest is None or (self.lowest <= value and (self.highest is None or value <= self.highest)):
            return
        if self.highest is None:
            raise InputError(f"{self.name} is {value}; choose {self.lowest} or more")
        meaning = f" ({self.lowest_means})" if self.lowest_means else ""
        raise InputError(f"{self.name} is {value}; choose from {self.lowest}{meaning} to {self.highest}")


# w + 1 of Ho & Salimans 2022 (arXiv 2207.12598, eq. 6): 1 leaves the conditional prediction as it is.
GUIDANCE_SCALE = Setting(
    "guidance_scale",
    4.0,
    "how strongly images follow their prompt (classifier-free guidance); 1 is no guidance",
    lowest=1,
    highest=100,
    lowest_means="no guidance",
)
NEGATIVE_PROMPT = Setting("negative_prompt", "", "what to steer away from")
SCHEDULER = Setting(
    "scheduler", "dpm-solver++", "sampler: dpm-solver++ or ddim", choices=get_args(SchedulerName)
)
DRIFT = Setting(
    "drift",
    None,
    "Latent Drifting: mean of the initial noise, and what where adds as images are denoised; the model's own "
    "where absent",
    lowest=-1,
    highest=1,
)
DRIFT_WHERE = Setting(
    "drift_where",
    None,
    "where drift enters: per_step adds it to the latents after each denoising step, scaled_by_sigma to the "
    "predicted noise, init_only to the initial noise alone; the model's own where absent",
    choices=get_args(DriftWhere),
)
STEPS = Setting("steps", 25, "denoising steps of the whole schedule", lowest=1, highest=1000)
SEED = Setting(
    "seed",
    0,
    "of the noise; with model, prompt and index it decides each image",
    lowest=0,
    highest=2**31 - 1,
)
NUM_IMAGES = Setting("num_images", 64, "images in all; prompts take turns", lowest=1, highest=1_000_000)
NUM_INSERTED = Setting("num_images", 16, "images to change, or pairs to make", lowest=1, highest=100_000)
BATCH_SIZE = Setting(
    "batch_size", 16, "images a worker takes at a time; does not change them", lowest=1, highest=100_000
)

GUIDANCE = Setting(
    "guidance",
    "joint",
    "joint: prompt and conditions guide together, all by guidance_scale; independent: each for itself, by a "
    "weight of its own",
    choices=get_args(GuidanceKind),
)
WEIGHT = Setting(
    "weight",
    None,
    "of a condition in independent guidance; guidance_scale where absent",
    lowest=0,
    highest=100,
)

# In a study or an object of Kubernetes numbers have bounds that are closer.
MOST_IMAGES, MOST_IN_A_BATCH = 100_000, 1024


@dataclass(frozen=True)
class Sampling:
    """How an image is sampled from its prompt and noise. Raises InputError for a setting out of bounds.

    Where `drift` or `drift_where` is None it is the model's own (models/drift.py).
    """

    negative_prompt: str = NEGATIVE_PROMPT.default
    guidance_scale: float = GUIDANCE_SCALE.default
    scheduler: str = SCHEDULER.default
    steps: int = STEPS.default
    drift: float | None = DRIFT.default
    drift_where: str | None = DRIFT_WHERE.default

    def __post_init__(self) -> None:
        for setting in (SCHEDULER, STEPS, GUIDANCE_SCALE, DRIFT, DRIFT_WHERE):
            if (value := getattr(self, setting.name)) is not None:
                setting.check(value)


@dataclass(frozen=True)
class Guidance:
    """How conditions guide an image beside its prompt. Raises InputError for a setting out of bounds."""

    kind: str = GUIDANCE.default
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of independent guidance, by the condition's name."""

    def __post_init__(self) -> None:
        GUIDANCE.check(self.kind)
        for name, weight in self.weights.items():
            replace(WEIGHT, name=f"the weight of {name}").check(weight)
        if self.weights and self.kind != "independent":
            raise InputError("weights of conditions are of independent guidance; add --guidance independent")

    def weight_of(self, name: str, scale: float) -> float:
        """A condition's weight; `scale` is the prompt's."""
        return self.weights.get(name, scale)
