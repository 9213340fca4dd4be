"""A run with its folders named from the root: Ray's workers have working directories of their own."""

from __future__ import annotations

from medsd_ray.addresses import path_of
from medsd_ray.models.resolve import SMALL
from medsd_ray.spec.run import RunSpec


def with_absolute_paths(run: RunSpec) -> RunSpec:
    """Makes every folder of the run absolute; addresses (`s3://...`) and names of models stay as they are."""
    data = run.data.model_copy(
        update={name: _absolute(getattr(run.data, name)) for name in ("train", "validation", "cache")}
    )
    is_folder = run.model != SMALL and path_of(run.model).is_dir()
    model = _absolute(run.model) if is_folder else run.model
    absolute = run.model_copy(update={"data": data, "model": model, "output": _absolute(run.output)})
    if run.prior:
        prior = run.prior.model_copy(update={"data": _absolute(run.prior.data)})
        absolute = absolute.model_copy(update={"prior": prior})
    text = run.components.text_encoder
    if text.swap and path_of(text.swap.model).is_dir():
        swap = text.swap.model_copy(update={"model": _absolute(text.swap.model)})
        components = run.components.model_copy(
            update={"text_encoder": text.model_copy(update={"swap": swap})}
        )
        absolute = absolute.model_copy(update={"components": components})
    return absolute


def _absolute(address: str | None) -> str | None:
    if address is None or "://" in address:
        return address
    return str(path_of(address).absolute())
