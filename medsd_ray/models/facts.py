"""What is known of a model before it is loaded, from its JSON files and those of its checkpoints."""

from __future__ import annotations

from types import SimpleNamespace

from medsd_ray.documents import json_object
from medsd_ray.errors import InputError
from medsd_ray.models.layout import CONDITIONS_FILE
from medsd_ray.models.pixels import vae_scale_factor
from medsd_ray.models.resolve import resolve
from medsd_ray.runs.checkpoints import describe_checkpoint
from medsd_ray.spec.conditions import CONDITIONS, ConditionSettings, parse_settings


def latent_factor(model: str) -> int:
    """Pixels of an image's side for each value of its latent's side. Raises InputError where the model is
    none.
    """
    path = resolve(model).folder / "vae" / "config.json"
    try:
        return vae_scale_factor(SimpleNamespace(config=json_object(path.read_bytes())))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: missing or damaged; copy the model anew") from error


def conditions_of(model: str) -> ConditionSettings | None:
    """What a model takes beside a prompt; None where that is nothing. Raises InputError where the model is
    none.
    """
    resolved = resolve(model)
    for store in reversed(resolved.checkpoints):
        if found := describe_checkpoint(store).get(CONDITIONS):
            return parse_settings(found, f"{store.url}/checkpoint.json")
    path = resolved.folder / CONDITIONS_FILE
    if not path.is_file():
        return None
    return parse_settings(json_object(path.read_bytes()), str(path))
