"""A run with its folders named from the root: Ray's workers have working directories of their own."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from medsd_ray.addresses import path_of
from medsd_ray.models.resolve import SMALL
from medsd_ray.spec.run import RunSpec


def with_absolute_paths(run: RunSpec) -> RunSpec:
    """Makes every folder of the run absolute; addresses (`s3://...`) and names of models stay as they are."""
    folders = {f"data.{name}": getattr(run.data, name) for name in ("train", "validation", "cache")}
    folders |= {"output": run.output, "prior.data": run.prior and run.prior.data}
    models = {"model": run.model} | run.other_models
    folders |= {field: model for field, model in models.items() if model != SMALL and path_of(model).is_dir()}
    for field, address in folders.items():
        run = _replaced(run, field.split("."), _absolute(address)) if address is not None else run
    sources = [one.model_copy(update={"shards": _absolute(one.shards)}) for one in run.data.sources]
    return run.model_copy(update={"data": run.data.model_copy(update={"sources": sources})})


def _absolute(address: str) -> str:
    return address if "://" in address else str(path_of(address).absolute())


def _replaced(model: Any, path: list[str], value: str) -> Any:
    """The model with another value at the path of a field."""
    first, *rest = path
    inner: BaseModel = getattr(model, first)
    return model.model_copy(update={first: _replaced(inner, rest, value) if rest else value})
