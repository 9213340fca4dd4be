"""What the stages of the diffusion model share: how its components are loaded, adapted and put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from medsd_ray.errors import InputError
from medsd_ray.spec.components import COMPONENTS
from medsd_ray.spec.conditions import CONDITIONS
from medsd_ray.spec.run import RunSpec
from medsd_ray.training.checked_run import CheckedRun
from medsd_ray.training.stages.stage import StageModule

if TYPE_CHECKING:  # the driver asks a stage's class before diffusers, which takes seconds, is imported
    from medsd_ray.models.components import Components


class DiffusionStage(StageModule):
    """A stage of a run with `components`."""

    targets = None

    @classmethod
    def needed_components(cls, run: RunSpec) -> tuple[str, ...]:
        """The parts of the model that a worker of the run loads, as `load_components` names them."""
        raise NotImplementedError

    @classmethod
    def load(cls, checked: CheckedRun) -> Components:
        """See `Stage.load`."""
        from medsd_ray.models.load import load_components
        from medsd_ray.models.methods.registry import adapt

        run = checked.run
        components = load_components(run.model, only=cls.needed_components(run))
        for name in COMPONENTS:
            if getattr(components, name) is not None:
                adapt(components, name, getattr(run.components, name), run.seed)
        if checked.conditions:
            adapt(components, CONDITIONS, checked.conditions.settings, run.seed)
        elif components.conditions is not None:
            names = ", ".join(sorted(components.conditions.settings.conditions))
            raise InputError(
                f"{run.model} was trained with conditions ({names}); name the same ones under conditions, "
                "and train its unet"
            )
        return components

    @classmethod
    def load_base(cls, checked: CheckedRun) -> Components:
        """See `Stage.load_base`."""
        from medsd_ray.models.drift import drift_of
        from medsd_ray.models.load import load_components

        base = load_components(checked.run.model)
        if prediction_type := checked.run.objective.prediction_type:
            base.scheduler.register_to_config(prediction_type=prediction_type)
        if checked.latents:
            base.sample_size = checked.latents.sample_size
            base.drift = drift_of(checked.run.objective.drift)
        return base

    @classmethod
    def merge(cls, base: Components, checked: CheckedRun, weights: dict[str, Tensor]) -> Components:
        """See `Stage.merge`."""
        from medsd_ray.models.methods.registry import adaptation

        for name in checked.run.methods:
            prefix = f"{name}."
            settings = (
                checked.conditions.settings
                if name == CONDITIONS and checked.conditions
                else getattr(checked.run.components, name)
            )
            own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            adaptation(name, settings).merge(base, name, settings, own)
        return base
