"""The object under reconciliation, as plain Python: its identity, its spec, its status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from medsd_ray.errors import InputError
from medsd_ray.spec.load import parse_run, parse_study
from medsd_ray.spec.objects import EvaluationSpec, FineTuneSpec, JobSpec, StudyJobSpec
from medsd_ray.spec.runtime import RuntimeSpec
from medsd_ray.spec.status import Status
from medsd_ray.spec.values import describe_errors, dotted_path

LONGEST_NAME = 63

Spec = TypeVar("Spec", bound=BaseModel)


@dataclass(frozen=True)
class Subject:
    """A FineTune, a Study or an Evaluation. `refusal`: why the spec cannot be read, in words; then `spec` is
    None.
    """

    kind: str
    namespace: str
    name: str
    uid: str
    generation: int
    spec: JobSpec | None
    status: Status
    refusal: str | None = None


def read_subject(made: dict[str, Any]) -> Subject:
    """An object as the API server has it. Raises ValidationError where the status is not one that medsd
    wrote.
    """
    meta = made["metadata"]
    spec, refusal = None, None
    try:
        spec = read_spec(made["kind"], meta["name"], made.get("spec") or {})
    except InputError as error:
        refusal = str(error)
    return Subject(
        kind=made["kind"],
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        generation=meta.get("generation", 0),
        spec=spec,
        status=Status.model_validate(made.get("status") or {}),
        refusal=refusal,
    )


def read_spec(kind: str, name: str, values: dict[str, Any]) -> JobSpec:
    """Raises InputError with every wrong field, one line."""
    if len(name) > LONGEST_NAME or "." in name:
        raise InputError(
            f"metadata.name: {name!r} is not a DNS label of at most {LONGEST_NAME} characters; "
            "choose another name"
        )
    if kind == "Evaluation":
        return _checked(EvaluationSpec, values, "an Evaluation")
    if kind == "Study":
        study = parse_study({**(values.get("study") or {}), "name": name}, source="spec.study")
        return _checked(StudyJobSpec, {**values, "study": study}, "a Study")
    run = parse_run({**(values.get("run") or {}), "name": name}, source="spec.run")
    return _checked(FineTuneSpec, {**values, "run": run}, "a FineTune")


def read_runtime(made: dict[str, Any]) -> RuntimeSpec:
    """Raises InputError with every wrong field, one line."""
    try:
        return _checked(RuntimeSpec, made.get("spec") or {}, "a Runtime")
    except InputError as error:
        raise InputError(f"runtime {made['metadata']['name']}: {error}") from error


def _checked(model: type[Spec], values: dict[str, Any], kind: str) -> Spec:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        place = lambda details: f"spec.{dotted_path(details)}".rstrip(".")
        raise InputError(describe_errors(error, model, kind, place)) from error
