"""A study's folders, named from the root."""

from __future__ import annotations

from typing import Any

from medsd_ray.addresses import path_of
from medsd_ray.models.resolve import SMALL
from medsd_ray.spec.space import Dimension
from medsd_ray.spec.study import StudySpec
from medsd_ray.storage import absolute as absolute_store
from medsd_ray.storage import open_storage

FOLDERS = ("prior.data", "data.train", "data.validation", "data.sources.shards")
"""Fields of a run that are addresses of shards."""


def absolute(study: StudySpec) -> StudySpec:
    """The study with its folders named from the root: trials run in working directories of their own."""

    def rooted(dimension: Dimension, path: str) -> Dimension:
        if dimension.choice is None:
            return dimension
        return dimension.model_copy(update={"choice": [_rooted(path, value) for value in dimension.choice]})

    return study.model_copy(
        update={
            "output": _folder(study.output),
            "shards": _folder(study.shards),
            "run": {name: _rooted(name, value) for name, value in study.run.items()},
            "space": {path: rooted(dimension, path) for path, dimension in study.space.items()},
        }
    )


def _folder(address: str) -> str:
    return absolute_store(open_storage(address)).url


def _rooted(path: str, value: Any) -> Any:
    """The value at a dotted path of a run, with the addresses in it named from the root. A model's may be a
    hub name.
    """
    if isinstance(value, dict):
        return {name: _rooted(f"{path}.{name}", inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_rooted(path, inner) for inner in value]
    if not isinstance(value, str):
        return value
    if path in FOLDERS or (
        path.rpartition(".")[2] in ("model", "weights") and value != SMALL and path_of(value).is_dir()
    ):
        return _folder(value)
    return value
