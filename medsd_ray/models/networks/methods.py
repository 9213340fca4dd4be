"""What of a network with weights is trained: all of it, what is new, or low-rank updates (LoRA) and what is
new.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from medsd_ray.errors import InputError
from medsd_ray.models.networks.task_module import TaskNetwork
from medsd_ray.spec.components import Lora
from medsd_ray.spec.tasks import Network


def adapt(network: TaskNetwork, settings: Network, new: set[str]) -> Any:
    """Makes a network ready to train by its method; the parameters to train are then those with
    `requires_grad`. `new` are the names of those that no weights were loaded for.

    Returns peft's tuner for the method lora, else None. LoRA's matrices are drawn from torch's generator.
    Raises InputError where the method has nothing to train.
    """
    if settings.method == "lora":
        tuner = _with_lora(network, settings.lora or Lora(), new)
        network.train()
        return tuner
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(settings.method == "full" or name in new)
    if settings.method == "frozen":
        if not new:
            raise InputError(
                "network.method: frozen trains what the weights do not have, and they have all of this "
                "network; set method to lora or full"
            )
        network.new_parts = tuple(_new_parts(network, "", new))
    network.train()
    return None


def _new_parts(module: nn.Module, path: str, new: set[str]) -> Iterator[str]:
    """The names of the largest parts that have new parameters alone."""
    names = [f"{path}.{name}" if path else name for name, _ in module.named_parameters()]
    if names and new.issuperset(names):
        yield path
    elif new.intersection(names):
        for name, child in module.named_children():
            yield from _new_parts(child, f"{path}.{name}" if path else name, new)


def _with_lora(network: TaskNetwork, lora: Lora, new: set[str]) -> Any:
    """LoRA (Hu et al. 2022, arXiv 2106.09685, eq. 3) beside each linear layer of the loaded part."""
    from peft import LoraConfig, LoraModel

    # Subclasses of nn.Linear are called by their owners' own ways, past what peft would put there.
    linear = [
        name
        for name, module in network.body.named_modules()
        if type(module) is nn.Linear and f"body.{name}.weight" not in new
    ]
    if not linear:
        raise InputError(
            "network.method: lora is for linear layers, and what the weights have of this network has none; "
            "set method to frozen or full"
        )
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules="|".join(map(re.escape, linear)))  # type: ignore[arg-type]
    tuner = LoraModel(network.body, config, "default")
    for name, parameter in network.named_parameters():
        if name in new:
            parameter.requires_grad_(True)
    return tuner
