"""Kinds of values that several fields of the spec share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from medsd_ray.spec.images import SEED

Positive = Annotated[int, Field(ge=1)]

LearningRate = Annotated[float, Field(gt=0, le=1)]

Seed = Annotated[int, Field(ge=SEED.lowest, le=SEED.highest)]

Text = Annotated[str, Field(max_length=1024)]  # as long as a key of S3 may be

Address = Annotated[Text, Field(min_length=1, pattern=r"\S")]
"""Of a folder, `s3://`, or a model's name: something must be there to be found."""

Weight = Annotated[float, Field(ge=0, le=1e6)]
"""Of a term of a loss or an update: finite also in 32 bits, times what it weighs."""

Beta = Annotated[float, Field(ge=0, lt=1)]
"""A share that an average keeps at each step; at 1 it would never move."""

Workers = Annotated[int, Field(ge=1, le=4096)]

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
DnsLabel = Annotated[str, Field(pattern=DNS_LABEL)]
"""A DNS label, as the names of a run, a study and a pod are."""

Json = Annotated[Any, Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]


Auto = BeforeValidator(lambda value: None if value == "auto" else value)
"""For a field that medsd chooses where it is absent: the word `auto` is the same as its absence."""


# --- of Kubernetes' objects

Name = Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]

Subdomain = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")]

Quantity = Annotated[str, Field(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]

Seconds = Annotated[int, Field(ge=1, le=10**9)]

Time = Annotated[str, Field(max_length=32, json_schema_extra={"format": "date-time"})]

Labels = Annotated[dict[str, Text], Field(max_length=32)]

Raw = dict[str, Any]
"""A part of a pod as Kubernetes has it, which passes through unchecked."""

RawList = Annotated[list[Raw], Field(max_length=32)]


def keyed(name: str) -> dict[str, Any]:
    """For a list whose items have a key: no two are the same, and server-side apply merges item by item."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [name]}
