"""The two kinds of run, and their modules made ready to train: components loaded, methods applied."""

from __future__ import annotations

import torch
from torch import nn

from medsd_ray.models.components import Components
from medsd_ray.spec.run import RunSpec
from medsd_ray.training.adapted import load_adapted
from medsd_ray.training.checked_run import LatentMeta
from medsd_ray.training.stages.unet import UnetStage
from medsd_ray.training.stages.vae import VaeStage

Stage = UnetStage | VaeStage


def build_stage(run: RunSpec, latents: LatentMeta | None) -> Stage:
    """The run's module on the CPU, float32; its trained parameters are those with `requires_grad`."""
    components = load_adapted(run)
    _options(components, run)
    if run.components.vae.trained:
        return VaeStage(components, run)
    assert latents is not None
    embedding = None if latents.empty_embedding is None else torch.tensor(latents.empty_embedding)
    return UnetStage(components, run, embedding, latents.scaling_factor)


def peak_rates(run: RunSpec) -> dict[str, float]:
    """Trained component -> its peak learning rate, in the order of the optimizer's groups."""
    return {
        name: getattr(run.components, name).learning_rate or run.training.learning_rate
        for name in run.components.trained
    }


def _options(components: Components, run: RunSpec) -> None:
    for name in run.components.trained:
        module = getattr(components, name)
        if run.training.gradient_checkpointing:
            # diffusers and transformers name the same thing differently
            if hasattr(module, "enable_gradient_checkpointing"):
                module.enable_gradient_checkpointing()
            else:
                module.gradient_checkpointing_enable({"use_reentrant": False})
        if run.training.compile and name != "text_encoder":
            _compile(module)


def _compile(module: nn.Module) -> None:
    """Compiles the blocks that a model repeats, each kind once; the whole module where it names none."""
    if getattr(module, "_repeated_blocks", None):
        module.compile_repeated_blocks()  # type: ignore[operator]
    else:
        module.compile()
