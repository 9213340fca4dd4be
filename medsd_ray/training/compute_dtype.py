"""In which number format a run really computes: read from its operations, as a setting that asks for half
precision proves nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from medsd_ray.errors import RunError
from medsd_ray.training.engine import Engine, component_of

aten = torch.ops.aten
PRODUCTS = {aten.convolution, aten._convolution, aten.mm, aten.addmm, aten.mkldnn_linear}


class _Recorder(TorchDispatchMode):
    """Notes the operands' dtype of each convolution and matrix product under the component whose layer asks
    for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer: str | None = None
        self.seen: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.layer and getattr(func, "overloadpacket", None) in PRODUCTS:
            dtypes = {a.dtype for a in args if isinstance(a, Tensor)}
            self.seen.setdefault(self.layer, set()).update(dtypes)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def compute_dtypes(engine: Engine, batch: dict[str, Tensor]) -> dict[str, str]:
    """Component -> the dtype of its convolutions and matrix products, such as `bfloat16`, in one forward pass
    of `batch` without torch.compile. All workers call it.

    Raises RunError where one of them is not that of the run's precision: training would be slower, or less
    exact, than the run says.
    """
    recorder, hooks = _Recorder(), []
    for name, layer in engine.module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv1d):
            hooks.append(layer.register_forward_pre_hook(_entering(recorder, component_of(name))))
            hooks.append(layer.register_forward_hook(_leaving(recorder)))
    modes = {module: module.training for module in engine.module.modules()}
    engine.module.eval()
    try:
        with torch.compiler.set_stance("force_eager"), recorder:
            engine(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    for component, seen in recorder.seen.items():
        if seen != {engine.dtype}:
            names = " and ".join(sorted(_name(dtype) for dtype in seen))
            raise RunError(
                f"precision {engine.training.precision} was asked for, but the {component} computes in "
                f"{names} here; set training.precision to fp32, or report this with the versions in "
                "manifest.json"
            )
    return {component: _name(engine.dtype) for component in recorder.seen}


def _entering(recorder: _Recorder, component: str) -> Any:
    def hook(*_: Any) -> None:
        recorder.layer = component

    return hook


def _leaving(recorder: _Recorder) -> Any:
    def hook(*_: Any) -> None:
        recorder.layer = None

    return hook


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
