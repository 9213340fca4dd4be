"""The kinds of run, and how the one that a spec asks for is made ready to train."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from medsd_ray.models.compilation import compile_module
from medsd_ray.spec.run import RunSpec
from medsd_ray.training.checked_run import LatentMeta
from medsd_ray.training.stages.kinds import kind_of
from medsd_ray.training.stages.stage import StageModule
from medsd_ray.training.stages.unet import UnetStage
from medsd_ray.training.stages.vae import VaeStage

if TYPE_CHECKING:
    from medsd_ray.models.components import Components

STAGES: tuple[type[StageModule], ...] = (VaeStage, UnetStage)


def stage_of(run: RunSpec) -> type[StageModule]:
    """The stage that trains what the run trains; a valid spec has one."""
    return next(stage for stage in STAGES if stage.kind is kind_of(run))


def load_adapted(run: RunSpec) -> Components:
    """The run's model with its methods applied: the parameters to train are those with `requires_grad`.

    Raises InputError where the model cannot be loaded or does not fit the methods.
    """
    # Here, as they import diffusers, which takes seconds.
    from medsd_ray.models.load import load_components
    from medsd_ray.models.methods.registry import adapt

    components = load_components(run.model, only=stage_of(run).needed_components(run))
    for name in components.modules():
        adapt(components, name, getattr(run.components, name), run.seed)
    return components


def build_stage(run: RunSpec, latents: LatentMeta | None) -> StageModule:
    """The run's stage on the CPU, float32, with gradient checkpointing and torch.compile as the spec asks."""
    components = load_adapted(run)
    for name in run.components.trained:
        module = getattr(components, name)
        if run.training.gradient_checkpointing:
            _checkpoint_gradients(module)
        if run.training.compile and name != "text_encoder":
            compile_module(module, whole=bool(run.resources.use_gpu))
    return stage_of(run).build(components, run, latents)


def _checkpoint_gradients(module: nn.Module) -> None:
    """Activations are computed again in the backward pass, not kept."""
    # diffusers and transformers name the same thing differently
    if hasattr(module, "enable_gradient_checkpointing"):
        module.enable_gradient_checkpointing()  # type: ignore[operator]
    else:
        module.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
