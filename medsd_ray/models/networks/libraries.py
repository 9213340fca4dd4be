"""How each library makes a network of a name, with arguments of its own."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from medsd_ray.errors import InputError
from medsd_ray.models.networks.near_names import unknown_argument, unknown_name
from medsd_ray.models.resolve import NetworkWeights
from medsd_ray.spec.tasks import Network

Task = Literal["classifier", "segmenter"]
CHANNELS = 3
"""Of the images that a network gets."""
_INPUTS = ("in_channels", "n_input_channels", "in_chans")
_OUTPUTS = ("out_channels", "num_classes", "classes", "n_classes")


def outputs_of(task: Task, classes: Sequence[str]) -> int:
    """The number of a network's outputs: a segmenter's first is the background."""
    return len(classes) + (task == "segmenter")


@dataclass(frozen=True)
class Recipe:
    """How a library makes a network: `from module import function`, and its keyword arguments."""

    module: str
    function: str
    arguments: dict[str, Any]

    def make(self) -> nn.Module:
        """The network, with random weights. Raises what the library raises."""
        return getattr(importlib.import_module(self.module), self.function)(**self.arguments)


def make(settings: Network, task: Task, outputs: int, source: NetworkWeights | None = None) -> nn.Module:
    """A network from (B, 3, H, W) to (B, outputs) for a classifier and to (B, outputs, H, W) for a segmenter.

    Its weights are random; a network of transformers is made by what `source`, a folder or a pipeline, says
    of it, and has the backbone's weights.

    Raises InputError for a name or an argument that the library does not know.
    """
    if settings.library == "transformers":
        from medsd_ray.models.networks.backbones import make_backbone_network

        assert source
        return make_backbone_network(settings, task == "segmenter", outputs, source)
    try:
        return recipe(settings, task, outputs).make()
    except InputError:
        raise
    except Exception as error:  # what a library raises for arguments that do not fit is its own
        raise InputError(
            f"network.arguments: {settings.library} makes no {settings.name} of them: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error


def recipe(settings: Network, task: Task, outputs: int) -> Recipe:
    """How MONAI, timm or smp makes a network. Raises InputError for a name or an argument that the library
    does not know.
    """
    return RECIPES[settings.library](settings, task, outputs)


def _monai(settings: Network, task: Task, outputs: int) -> Recipe:
    from monai.networks import nets

    known = {
        name: kind
        for name, kind in vars(nets).items()
        if inspect.isclass(kind) and issubclass(kind, nn.Module)
    }
    if settings.name not in known:
        raise unknown_name("monai.networks.nets", settings.name, known)
    kind = known[settings.name]
    given = {"spatial_dims": 2} if "spatial_dims" in inspect.signature(kind).parameters else {}
    return _of_class("monai.networks.nets", kind, settings, given, outputs)


def _timm(settings: Network, task: Task, outputs: int) -> Recipe:
    import timm

    if settings.name not in (known := timm.list_models()):
        raise unknown_name("timm", settings.name, known)
    if task == "segmenter":
        raise InputError(
            f"segmenter.network: timm's networks tell images apart; for a segmenter choose smp, with "
            f"arguments encoder_name: tu-{settings.name}"
        )
    own = {"num_classes": outputs, "in_chans": CHANNELS, "pretrained": False}
    arguments = {"model_name": settings.name, **_without(settings, own), **own}
    return Recipe("timm", "create_model", arguments)


def _smp(settings: Network, task: Task, outputs: int) -> Recipe:
    import segmentation_models_pytorch as smp

    known = {
        name: kind
        for name, kind in vars(smp).items()
        if inspect.isclass(kind) and issubclass(kind, nn.Module)
    }
    if task == "classifier":
        raise InputError("classifier.network: smp's networks segment; choose monai, timm or transformers")
    if settings.name not in known:
        raise unknown_name("segmentation_models_pytorch", settings.name, known)
    given = {"encoder_weights": None}
    return _of_class("segmentation_models_pytorch", known[settings.name], settings, given, outputs)


RECIPES: dict[str, Callable[[Network, Task, int], Recipe]] = {"monai": _monai, "timm": _timm, "smp": _smp}


def _of_class(
    module: str, kind: type[nn.Module], settings: Network, given: dict[str, Any], outputs: int
) -> Recipe:
    """Of a network whose class names the numbers of its channels in one of the usual ways."""
    parameters = inspect.signature(kind).parameters
    own = given | {
        name: value
        for names, value in ((_INPUTS, CHANNELS), (_OUTPUTS, outputs))
        for name in names
        if name in parameters
    }
    arguments = _without(settings, own)
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if not open_ended and (unknown := sorted(arguments.keys() - parameters.keys())):
        raise unknown_argument(settings.name, unknown[0], parameters)
    return Recipe(module, settings.name, arguments | own)


def _without(settings: Network, own: dict[str, Any]) -> dict[str, Any]:
    if taken := sorted(settings.arguments.keys() & own.keys()):
        raise InputError(f"network.arguments: {taken[0]} is given by the run; leave it out")
    return settings.arguments
