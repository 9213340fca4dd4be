"""A network of a library as a task run trains it and as it is used afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from medsd_ray.errors import InputError
from medsd_ray.models.methods.adaptation import seeded
from medsd_ray.models.networks.backbones import BackboneNetwork
from medsd_ray.models.networks.libraries import Task, make, outputs_of
from medsd_ray.models.networks.methods import adapt
from medsd_ray.models.networks.normalisation import without_batch_statistics
from medsd_ray.models.networks.task_module import TaskNetwork
from medsd_ray.models.networks.weights import (
    PixelStatistics,
    State,
    fitting,
    load_fitting,
    pixel_statistics,
    read_folder,
    statistics,
)
from medsd_ray.models.resolve import NetworkWeights, check_weights_base, resolve_weights
from medsd_ray.models.weights import load_partial_state
from medsd_ray.runs.checkpoint_reader import load_weights
from medsd_ray.runs.checkpoints import describe_checkpoint, task_of
from medsd_ray.spec.run import RANDOM
from medsd_ray.spec.tasks import Network
from medsd_ray.storage import Storage


@dataclass
class TaskModel:
    """The network of a task run, under the name of its task, which its parameters' names begin with."""

    name: Task
    network: TaskNetwork
    source: NetworkWeights | None = None
    """The folder or pipeline with which its weights began; None where these were random."""
    said: str = ""
    """What of its weights was loaded, in words; nothing where all are random."""
    tuner: Any = None
    """peft's, of the method lora."""

    def modules(self) -> dict[str, nn.Module]:
        return {self.name: self.network}


def load_network(
    settings: Network, task: Task, outputs: int, seed: int, near: Storage | None = None
) -> TaskModel:
    """A network ready to train, float32 on the CPU; all that is drawn at random follows from `seed`. `near`
    is the checkpoint whose run these settings are of, where they are not of this run; see `resolve_weights`.

    Raises InputError where the library does not make it, or the weights do not fit it.
    """
    if settings.weights is None:
        body = seeded(seed, lambda: without_batch_statistics(make(settings, task, outputs), settings))
        return TaskModel(task, TaskNetwork(body).requires_grad_(True).train())
    found = resolve_weights(settings.weights, near)
    earlier = _earlier(settings, found.checkpoint) if found.checkpoint else None
    source = earlier.source if earlier else found
    if source and source.pipeline and settings.library != "transformers":
        raise InputError(
            f"{settings.weights}: a diffusion model, whose VAE has an encoder; for that set network.library "
            "to transformers, without a name"
        )
    body = seeded(seed, lambda: make(settings, task, outputs, source))
    state = earlier.network.body.state_dict() if earlier else _state(settings, found, body)
    fits = fitting(body, state)
    without_batch_statistics(body, settings, fits)
    said = load_fitting(body, state, fits, settings.weights)
    pixels = earlier.network.pixels if earlier else _pixels(settings, found, body)
    network = TaskNetwork(body, pixels)
    new = {f"body.{name}" for name, _ in body.named_parameters() if name not in fits}
    tuner = seeded(seed, lambda: adapt(network, settings, new))
    return TaskModel(task, network, source, f"weights: {said}; {_pixels_in_words(pixels)}", tuner)


def load_trained(checkpoint: Storage) -> TaskModel:
    """The network that a checkpoint's task run has trained, its moving average where it has one, ready for
    use.

    Raises InputError where the checkpoint is damaged, or what it was trained from has changed.
    """
    description = describe_checkpoint(checkpoint)
    task: Any = task_of(description)
    check_weights_base(checkpoint)
    settings, spec = network_settings(description), description["spec"]
    outputs = outputs_of(task, description["classes"])
    model = load_network(settings, task, outputs, spec.get("seed", 0), near=checkpoint)
    try:
        return merge(model, load_weights(checkpoint, raw=False)[task])
    except (RuntimeError, KeyError) as error:
        raise InputError(
            f"{checkpoint.url}: its weights do not fit the network that it names; use another checkpoint"
        ) from error


def network_settings(description: dict[str, Any]) -> Network:
    """The network's settings in a checkpoint's run, from its checkpoint.json."""
    task: Any = task_of(description)
    weights = None if description["model"] == RANDOM else description["model"]
    return Network.model_validate(description["spec"][task]["network"] | {"weights": weights})


def merge(model: TaskModel, weights: dict[str, Tensor]) -> TaskModel:
    """The model with trained weights (parameter name -> tensor) in it, ready for use."""
    prefix = f"{model.name}."
    load_partial_state(model.network, {k.removeprefix(prefix): v for k, v in weights.items()})
    if model.tuner:
        model.tuner.merge_and_unload()
        model.tuner = None
    model.network.eval()
    return model


def _earlier(settings: Network, checkpoint: Storage) -> TaskModel:
    """The network of another task run. Raises InputError where it is another than `settings` name."""
    theirs = network_settings(describe_checkpoint(checkpoint))
    for field in ("library", "name", "arguments", "normalisation"):
        mine, other = getattr(settings, field), getattr(theirs, field)
        if mine != other:
            raise InputError(
                f"{checkpoint.url}: network.{field} of the run that trained these weights is {other!r}, but "
                f"{mine!r} here; set it alike, or choose other weights"
            )
    return load_trained(checkpoint)


def _state(settings: Network, found: NetworkWeights, body: nn.Module) -> State:
    if isinstance(body, BackboneNetwork):
        return {name: tensor for name, tensor in body.state_dict().items() if name in body.loaded}
    assert found.folder
    return read_folder(found.folder)


def _pixels(settings: Network, found: NetworkWeights, body: nn.Module) -> PixelStatistics | None:
    """What the weights say of their images or, of a network of timm, what timm says."""
    if found.folder and (said := pixel_statistics(found.folder)):
        return said
    own = getattr(body, "pretrained_cfg", {}) if settings.library == "timm" else {}
    return statistics(own["mean"], own["std"], settings.name) if {"mean", "std"} <= own.keys() else None


def _pixels_in_words(pixels: PixelStatistics | None) -> str:
    if pixels is None:
        return "images stay in [-1, 1]"
    mean, std = ("/".join(f"{value:.3g}" for value in values) for values in (pixels.mean, pixels.std))
    return f"images are normalised by mean {mean}, std {std}"
