"""How each library makes a network of a name, with arguments of its own."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal

from torch import nn

from medsd_ray.errors import InputError
from medsd_ray.spec.tasks import Network

Task = Literal["classifier", "segmenter"]
CHANNELS = 3
"""Of the images that a network gets."""
_INPUTS = ("in_channels", "n_input_channels", "in_chans")
_OUTPUTS = ("out_channels", "num_classes", "classes", "n_classes")


def make(settings: Network, task: Task, outputs: int) -> nn.Module:
    """A network with random weights, from (B, 3, H, W) to (B, outputs) for a classifier and to
    (B, outputs, H, W) for a segmenter.

    Raises InputError for a name or an argument that the library does not know.
    """
    return MAKERS[settings.library](settings, task, outputs)


def _monai(settings: Network, task: Task, outputs: int) -> nn.Module:
    from monai.networks import nets

    known = {
        name: kind
        for name, kind in vars(nets).items()
        if inspect.isclass(kind) and issubclass(kind, nn.Module)
    }
    if settings.name not in known:
        raise _unknown(settings, "monai.networks.nets", known)
    kind = known[settings.name]
    given = {"spatial_dims": 2} if "spatial_dims" in inspect.signature(kind).parameters else {}
    return _call(kind, settings, given, outputs)


def _timm(settings: Network, task: Task, outputs: int) -> nn.Module:
    import timm

    if settings.name not in (known := timm.list_models()):
        raise _unknown(settings, "timm", known)
    if task == "segmenter":
        raise InputError(
            f"segmenter.network: timm's networks tell images apart; for a segmenter choose smp, with "
            f"arguments encoder_name: tu-{settings.name}"
        )
    own = {"num_classes": outputs, "in_chans": CHANNELS, "pretrained": False}
    return _made(lambda: timm.create_model(settings.name, **_without(settings, own), **own), settings)


def _smp(settings: Network, task: Task, outputs: int) -> nn.Module:
    import segmentation_models_pytorch as smp

    known = {
        name: kind
        for name, kind in vars(smp).items()
        if inspect.isclass(kind) and issubclass(kind, nn.Module)
    }
    if task == "classifier":
        raise InputError("classifier.network: smp's networks segment; choose monai, timm or transformers")
    if settings.name not in known:
        raise _unknown(settings, "segmentation_models_pytorch", known)
    return _call(known[settings.name], settings, {"encoder_weights": None}, outputs)


MAKERS: dict[str, Callable[[Network, Task, int], nn.Module]] = {"monai": _monai, "timm": _timm, "smp": _smp}


def _call(kind: type[nn.Module], settings: Network, given: dict[str, Any], outputs: int) -> nn.Module:
    """Makes a network whose class names the numbers of its channels in one of the usual ways."""
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
        raise _unknown_argument(settings, unknown[0], parameters)
    return _made(lambda: kind(**arguments, **own), settings)


def _made(make: Callable[[], nn.Module], settings: Network) -> nn.Module:
    try:
        return make()
    except Exception as error:  # what a library raises for arguments that do not fit is its own
        raise InputError(
            f"network.arguments: {settings.library} makes no {settings.name} of them: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error


def _without(settings: Network, own: dict[str, Any]) -> dict[str, Any]:
    if taken := sorted(settings.arguments.keys() & own.keys()):
        raise InputError(f"network.arguments: {taken[0]} is given by the run; leave it out")
    return settings.arguments


def _unknown(settings: Network, where: str, known: Iterable[str]) -> InputError:
    near = difflib.get_close_matches(settings.name, list(known), n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return InputError(f"network.name: {where} has no {settings.name!r}{hint}")


def _unknown_argument(settings: Network, name: str, known: Iterable[str]) -> InputError:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(known)}"
    return InputError(f"network.arguments: {settings.name} has no {name!r}{hint}")
