"""Kinds of values that several fields of the spec share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from medsd_ray.spec.images import SEED

Positive = Annotated[int, Field(ge=1)]


LearningRate = Annotated[float, Field(gt=0, le=1)]


Seed = Annotated[int, Field(ge=SEED.lowest, le=SEED.highest)]


Text = Annotated[str, Field(max_length=1024)]  # as long as a key of S3 may be


Workers = Annotated[int, Field(ge=1, le=4096)]


Json = Annotated[Any, Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
