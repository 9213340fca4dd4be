"""The kinds of run, and how the one that a spec asks for is made ready to train."""

from __future__ import annotations

from typing import Any

from torch import nn

from medsd_ray.errors import InputError
from medsd_ray.models.compilation import compile_module
from medsd_ray.spec.conditions import CONDITIONS
from medsd_ray.spec.run import RunSpec
from medsd_ray.training.checked_run import CheckedRun
from medsd_ray.training.stages.classifier import ClassifierStage
from medsd_ray.training.stages.kinds import kind_of
from medsd_ray.training.stages.segmenter import SegmenterStage
from medsd_ray.training.stages.stage import StageModule
from medsd_ray.training.stages.unet import UnetStage
from medsd_ray.training.stages.vae import VaeStage

STAGES: tuple[type[StageModule], ...] = (VaeStage, UnetStage, ClassifierStage, SegmenterStage)


def stage_of(run: RunSpec) -> type[StageModule]:
    """The stage that trains what the run trains; a valid spec has one."""
    return next(stage for stage in STAGES if stage.kind is kind_of(run))


def build_stage(checked: CheckedRun) -> StageModule:
    """The run's stage on the CPU, float32, with gradient checkpointing and torch.compile as the spec asks.

    Raises InputError where the model does not allow that.
    """
    run, stage = checked.run, stage_of(checked.run)
    model = stage.load(checked)
    for name, module in model.modules().items():
        if name not in run.methods or name == CONDITIONS:  # a handful of layers
            continue
        if run.training.gradient_checkpointing:
            checkpoint_gradients(module, name)
        if run.training.compile and name != "text_encoder":
            compile_module(module, whole=bool(run.resources.use_gpu))
    return stage.build(model, checked)


def checkpoint_gradients(module: nn.Module, name: str) -> None:
    """Activations are computed again in the backward pass, not kept. Raises InputError for a network that
    does not know how.
    """
    # Each library names the same thing differently.
    part: Any = getattr(module, "recomputed", lambda: module)()
    try:
        if hasattr(part, "enable_gradient_checkpointing"):
            return part.enable_gradient_checkpointing()
        if hasattr(part, "activation_checkpointing_enable"):  # the newer name of transformers
            return part.activation_checkpointing_enable(
                activation_checkpointing_kwargs={"use_reentrant": False}
            )
        if hasattr(part, "gradient_checkpointing_enable"):
            return part.gradient_checkpointing_enable({"use_reentrant": False})
        if hasattr(part, "set_grad_checkpointing"):
            return part.set_grad_checkpointing()
    except (AssertionError, ValueError):
        pass  # it has the function as all of its library have, and says here that it does not know how
    raise InputError(
        f"training.gradient_checkpointing: the {name}'s network does not know it; set it to false"
    )
