"""From YAML files and plain values to checked specs, and back to YAML."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from medsd_ray.documents import to_yaml
from medsd_ray.errors import InputError
from medsd_ray.spec.plan import check_combinations
from medsd_ray.spec.run import RunSpec
from medsd_ray.spec.study import StudySpec
from medsd_ray.spec.values import describe_errors, read_values


def load_run(path: str | Path, overrides: list[str] | None = None) -> RunSpec:
    """Reads RUN.yaml and `--set a.b=value` overrides. Raises InputError with every wrong field, one line."""
    values = read_values(
        path, "RUN.yaml", "a run is a mapping with name, data, components, training and output", overrides
    )
    return parse_run(values, source=str(path))


def parse_run(values: dict, source: str = "run") -> RunSpec:
    """Checks a run given as plain values. Raises InputError with every wrong field, one line."""
    try:
        return RunSpec.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{source}: {describe_errors(error, RunSpec, 'a run')}") from error


def dump_run(run: RunSpec) -> str:
    """The run as YAML that `load_run` reads back to the same run."""
    return to_yaml(run.model_dump(mode="json"))


def load_study(path: str | Path, overrides: list[str] | None = None) -> StudySpec:
    """Reads STUDY.yaml and `--set a.b=value` overrides. Raises InputError, one line for all wrong fields."""
    values = read_values(
        path, "STUDY.yaml", "a study is a mapping with name, output, shards, run and space", overrides
    )
    return parse_study(values, source=str(path))


def parse_study(values: dict, source: str = "study") -> StudySpec:
    """Checks a study given as plain values, and each combination of its space. Raises InputError."""
    try:
        study = StudySpec.model_validate(values)
        check_combinations(study)
    except ValidationError as error:
        raise InputError(f"{source}: {describe_errors(error, StudySpec, 'a study')}") from error
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error
    return study


def dump_study(study: StudySpec) -> str:
    """The study as YAML that `load_study` reads back to the same study."""
    return to_yaml(study.model_dump(mode="json"))
