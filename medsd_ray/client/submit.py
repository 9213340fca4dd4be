"""What `medsd submit` checks and sends: a run as a FineTune object, or as the files of a Ray job. Nothing is
sent here.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medsd_ray.addresses import path_of
from medsd_ray.errors import InputError
from medsd_ray.models.resolve import SMALL, resolve
from medsd_ray.runs.names import RUN_SPEC
from medsd_ray.spec.load import dump_run
from medsd_ray.spec.objects import API_VERSION, FineTuneSpec, Report
from medsd_ray.spec.run import RunSpec
from medsd_ray.spec.values import describe_errors, dotted_path, read_values


def finetune(
    run: RunSpec,
    *,
    runtime: str | None = None,
    pool: str | None = None,
    queue: str | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """The FineTune of a run: components in their long form, fields that have their default left out.

    Raises InputError where the run has addresses that pods cannot reach, or an option is not a name.
    """
    _check_addresses(run, report)
    options = {"runtime": runtime, "pool": pool, "queue": queue}
    given = {name: value for name, value in options.items() if value is not None}
    try:
        spec = FineTuneSpec.model_validate({"run": run, "report": report, **given})
    except ValidationError as error:
        raise InputError(
            describe_errors(
                error,
                FineTuneSpec,
                "a FineTune",
                place=lambda option: f"--{dotted_path(option)} {option['input']!r}",
            )
        ) from error
    values = spec.model_dump(mode="json", exclude_defaults=True)
    name = values["run"].pop("name")
    return {"apiVersion": API_VERSION, "kind": "FineTune", "metadata": {"name": name}, "spec": values}


def read_report(path: Path) -> Report:
    """A FineTune's `report` from a YAML file. Raises InputError with every wrong field, one line."""
    values = read_values(path, "report's YAML", "a report is a mapping with real and prompts")
    try:
        return Report.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{path}: {describe_errors(error, Report, 'a report')}") from error


def _check_addresses(run: RunSpec, report: Report | None) -> None:
    addresses = _addresses(run) | ({"report.real": report.real} if report else {})
    wrong = [f"{name} is {value}" for name, value in addresses.items() if not value.startswith("s3://")]
    if _is_local(run.model):
        wrong.append(f"model is {run.model}")
    if wrong:
        raise InputError(
            f"{', '.join(wrong)}: pods see no folder of this machine; copy it to S3 "
            "and give its s3:// address"
        )


def check_model_here(run: RunSpec) -> None:
    """Raises InputError where the run's model is a folder that this machine sees, and of a layout that medsd
    does not train. What is on S3 or the hub is checked where the run is.
    """
    if run.model != SMALL and "://" not in run.model and path_of(run.model).is_dir():
        resolve(run.model)


def check_folders(run: RunSpec) -> None:
    """Raises InputError where a Ray cluster's nodes would look for a folder in the job's own working
    directory.
    """
    addresses = _addresses(run) | ({"model": run.model} if _is_local(run.model) else {})
    if wrong := [
        f"{name} is {value}" for name, value in addresses.items() if "://" not in value and value[0] != "/"
    ]:
        raise InputError(
            f"{', '.join(wrong)}: the cluster's nodes do not share this machine's folders; "
            "give an s3:// address, or the whole path of a folder that all nodes share"
        )


def _addresses(run: RunSpec) -> dict[str, str]:
    found = {name: source.shards for name, source in run.data.all_sources.items()}
    found |= {"data.validation": run.data.validation, "output": run.output}
    if run.prior:
        found["prior.data"] = run.prior.data
    for name, model in run.other_models.items():
        if _is_local(model):
            found[name] = model
    return {name: value for name, value in found.items() if value}


def _is_local(model: str) -> bool:
    named_as_path = model.startswith(("/", ".", "~"))
    return model != SMALL and "://" not in model and (named_as_path or Path(model).exists())


@contextlib.contextmanager
def job_folder(run: RunSpec, working_dir: Path | None) -> Iterator[Path]:
    """A folder with RUN_SPEC beside links to all that is in `working_dir`, for Ray to pack (it follows the
    links).

    Raises InputError where `working_dir` is no folder.
    """
    if working_dir is not None and not working_dir.is_dir():
        raise InputError(f"--working-dir {working_dir}: no such folder; give the one that holds medsd_ray/")
    with tempfile.TemporaryDirectory(prefix="medsd-") as made:
        folder = Path(made)
        for entry in working_dir.absolute().iterdir() if working_dir else ():
            if entry.name != RUN_SPEC:
                (folder / entry.name).symlink_to(entry)
        (folder / RUN_SPEC).write_text(dump_run(run))
        yield folder
