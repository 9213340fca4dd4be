"""A run's model with its methods applied."""

from __future__ import annotations

from medsd_ray.models.components import Components
from medsd_ray.models.load import load_components
from medsd_ray.models.methods.registry import adapt
from medsd_ray.spec.run import RunSpec


def needed_components(run: RunSpec) -> tuple[str, ...]:
    """The parts of the model that a worker of this run loads."""
    if run.components.vae.trained:
        return ("vae", "scheduler")
    return (
        "unet",
        "scheduler",
        *(["text_encoder", "tokenizer"] if run.components.text_encoder.trained else []),
    )


def load_adapted(run: RunSpec) -> Components:
    """The run's model with its methods applied: the parameters to train are those with `requires_grad`.

    Raises InputError where the model cannot be loaded or does not fit the methods.
    """
    components = load_components(run.model, only=needed_components(run))
    for name in components.modules():
        adapt(components, name, getattr(run.components, name), run.seed)
    return components
