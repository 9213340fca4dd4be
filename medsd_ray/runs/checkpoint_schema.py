"""What a checkpoint.json may say, whoever wrote it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from medsd_ray.schemas import Count, Schema
from medsd_ray.spec.images import DRIFT, STEPS, DriftWhere

Size = Annotated[int, Field(ge=1, le=2**20)]


Part = Literal["vae", "text_encoder", "unet", "conditions", "classifier", "segmenter"]
"""What a run can train."""


class Fragment(Schema):
    """Of one parameter: its shape, and the pieces (start, length, rank) that workers have written."""

    shape: Annotated[list[Count], Field(max_length=8)]
    pieces: list[Annotated[list[Count], Field(min_length=3, max_length=3)]]


class SampledDrift(Schema):
    """Latent Drifting at sampling, as `spec/objective.py` declares it."""

    delta: Annotated[float, Field(ge=DRIFT.lowest, le=DRIFT.highest)]
    where: DriftWhere
    steps: Annotated[int, Field(ge=STEPS.lowest, le=STEPS.highest)] | None = None


class Description(Schema):
    """The fields that some reader believes; those with a default are absent in what early versions wrote."""

    model: Annotated[str, Field(min_length=1, max_length=4096)] = "not recorded"
    components: dict[Part, str] = Field(default_factory=dict)
    step: Count = 0
    position: Count = 0
    updates: Count = 0
    ema: bool = False
    validation_loss: float | None = None
    validation: Count | None = None
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    drift: SampledDrift | None = None
    scaling_factor: Annotated[float, Field(gt=0)] | None = None
    classes: Annotated[list[str], Field(max_length=1000)] | None = None
    image_size: Size | None = None
    fit: Literal["crop", "pad"] | None = None
    sample_size: Annotated[list[Size], Field(min_length=2, max_length=2)] | None = None
    conditions: dict[str, Any] | None = None
    fingerprints: dict[str, str] = Field(default_factory=dict)
    spec: dict[str, Any] = Field(default_factory=dict)
    fragments: dict[str, Fragment] = Field(default_factory=dict)
