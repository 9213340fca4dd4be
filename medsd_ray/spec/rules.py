"""What every model of the spec is: closed, unchangeable, and with rules that the API server checks too."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """`cel`: (rule, message) pairs, the validators' twins for the API server (x-kubernetes-validations in the
    CRDs).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    cel: ClassVar[tuple[tuple[str, str], ...]] = ()
