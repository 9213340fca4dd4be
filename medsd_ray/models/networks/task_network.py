"""A network of a library as a task run trains it and as it is used afterwards."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from medsd_ray.models.methods.adaptation import seeded
from medsd_ray.models.networks.libraries import Task, make
from medsd_ray.models.networks.normalisation import without_batch_statistics
from medsd_ray.models.weights import load_partial_state
from medsd_ray.spec.tasks import Network


@dataclass
class TaskModel:
    """The network of a task run, under the name of its task, which its parameters' names begin with."""

    name: Task
    network: nn.Module

    def modules(self) -> dict[str, nn.Module]:
        return {self.name: self.network}


def load_network(settings: Network, task: Task, outputs: int, seed: int) -> TaskModel:
    """A network ready to train, float32 on the CPU; all that is drawn at random follows from `seed`.

    Raises InputError where the library does not make it.
    """
    network = seeded(seed, lambda: without_batch_statistics(make(settings, task, outputs), settings))
    return TaskModel(task, network.requires_grad_(True).train())


def merge(model: TaskModel, weights: dict[str, Tensor]) -> TaskModel:
    """The model with trained weights (parameter name -> tensor) in it, ready for use."""
    prefix = f"{model.name}."
    load_partial_state(model.network, {k.removeprefix(prefix): v for k, v in weights.items()})
    model.network.eval()
    return model
