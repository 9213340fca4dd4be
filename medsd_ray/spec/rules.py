"""The base of every model of the spec, and the rules that both Python and the API server check.

A field's own bounds say what one value may be. A rule speaks of several fields of an object at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator


@dataclass(frozen=True)
class Rule:
    """One rule in its two forms, which must agree.

    `cel` is for the API server: an expression of the Common Expression Language in which `self` is the
    object. It becomes an entry of x-kubernetes-validations in the CRD.

    `holds` says the same of a model, for Python, which checks RUN.yaml, STUDY.yaml and what `medsd submit`
    sends; None where the API server alone can tell.

    `message` is what both say of an object that breaks the rule; where Python can name the numbers, `detail`
    says it instead.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool] | None = None
    detail: Callable[[Any], str] | None = None


class SpecModel(BaseModel):
    """A part of the spec: it takes only the fields that it declares and finite numbers, never changes,
    and obeys its rules."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _obeys_rules(self):
        for rule in self.rules:
            if rule.holds and not rule.holds(self):
                raise ValueError(rule.detail(self) if rule.detail else rule.message)
        return self
