"""torch.compile of a U-Net or a VAE."""

from __future__ import annotations

from torch import nn


def compile_module(module: nn.Module, whole: bool) -> None:
    """Compiles a U-Net or a VAE in place, at its next call; what is compiled already stays as it is.

    On a GPU as a `whole`, by shapes that never change, so that normalisation is fused with what follows it
    and layouts are chosen for all of it; on a CPU the blocks that a model repeats, each kind once.
    """
    if getattr(module, "_repeated_blocks", None) and not whole:
        if not any(part._compiled_call_impl for part in module.modules()):
            module.compile_repeated_blocks()  # type: ignore[operator]
        return
    # A VAE is called by its two halves, never as one.
    halves = ("encoder", "decoder") if hasattr(module, "decoder") else ("",)
    for part in map(module.get_submodule, halves):
        if not part._compiled_call_impl:
            part.compile(dynamic=False if whole else None)
