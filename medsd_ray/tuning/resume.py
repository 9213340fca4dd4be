"""Whether a study starts in its output, goes on there, or is over."""

from __future__ import annotations

import contextlib
from typing import Any

from medsd_ray.documents import DocumentError, parse_yaml
from medsd_ray.errors import InputError
from medsd_ray.evaluation.versions import versions
from medsd_ray.runs.names import RUN_SPEC, STUDY, STUDY_SPEC
from medsd_ray.spec.load import parse_study
from medsd_ray.spec.study import StudySpec
from medsd_ray.storage import Storage
from medsd_ray.tuning.study_record import StudyRecord

MAY_GROW = {"output", "shards", "search.max_concurrent", "search.num_samples", "budget"}
"""What a resumed study may set anew."""


def check_output(output: Storage, study: StudySpec, resume: bool, auto_resume: bool) -> bool:
    """Whether the study was started in `output`. Raises InputError where it was and should not have been, was
    not and should have been, or another study was. Not by `storage.outputs.claim`, as a resumed study may
    have grown.
    """
    try:
        known = parse_study(parse_yaml(output.read(STUDY_SPEC)), f"{output.url}/{STUDY_SPEC}")
    except DocumentError as error:
        raise InputError(f"{output.url}/{STUDY_SPEC}: {error}; choose another output") from error
    except FileNotFoundError:
        if resume:
            raise InputError(
                f"{output.url}: no study to resume here; leave --resume out, or mend the output"
            ) from None
        if output.exists(RUN_SPEC):
            raise InputError(f"{output.url}: a run's output; choose another one for the study") from None
        return False
    if not (resume or auto_resume):
        raise InputError(
            f"{output.url}: a study was started here; go on with --resume, or choose another output"
        )
    now, then = (_fields(spec) for spec in (study, known))
    for name in sorted(now.keys() | then.keys()):
        if now.get(name) != then.get(name) and not {name, name.partition(".")[0]} & MAY_GROW:
            raise InputError(
                f"--resume: {name} is {now.get(name)!r}, but {then.get(name)!r} in "
                f"{output.url}/{STUDY_SPEC}: set it back or choose another output"
            )
    return True


def _fields(study: StudySpec) -> dict[str, Any]:
    """The fields by name, and those of a field that has its own as `search.seed`."""
    found: dict[str, Any] = {}
    for name, value in study.model_dump(mode="json").items():
        found |= (
            {f"{name}.{inner}": one for inner, one in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
    return found


def finished_study(output: Storage, study: StudySpec) -> dict[str, Any] | None:
    """study.json where the study is over, its budget of hours too."""
    with contextlib.suppress(FileNotFoundError, DocumentError):  # a damaged one is written anew
        known = output.read_json(STUDY)
        record = StudyRecord(study, output, versions())
        if known["state"] == "done" and (record.finished or record.out_of_time):
            return known
    return None
